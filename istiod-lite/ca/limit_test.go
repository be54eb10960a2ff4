package ca

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestAClientThatAsksTooOftenHasToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimit(10, 50)
		allowed := func(client string, times int) (count int) {
			for range times {
				if l.Allow(client) {
					count++
				}
			}
			return count
		}
		if got := allowed("a", 100); got != 50 {
			t.Errorf("%d at once, want 50", got)
		}
		if !l.Spent("a") || l.Spent("b") {
			t.Error("spent by another client than a")
		}
		if got := allowed("b", 10); got != 10 {
			t.Errorf("another client pays for it: %d of 10", got)
		}
		time.Sleep(time.Second)
		if got := allowed("a", 100); got != 10 {
			t.Errorf("%d after a second, want 10", got)
		}
		time.Sleep(time.Hour)
		if got := allowed("a", 100); got != 50 {
			t.Errorf("%d after an hour, want 50", got)
		}
	})
}

func TestClientsBeyondTheLimitAreForgottenNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimit(1, 2)
		for i := range 3 * maxClients {
			if !l.Allow(fmt.Sprint(i)) {
				t.Fatal("a new client has to wait")
			}
			time.Sleep(time.Microsecond)
		}
		if len(l.clients) != maxClients {
			t.Errorf("%d clients, want %d", len(l.clients), maxClients)
		}
		recent := 0
		for i := 3*maxClients - 1000; i < 3*maxClients; i++ {
			if l.clients[fmt.Sprint(i)] != nil {
				recent++
			}
		}
		if recent < 900 {
			t.Errorf("only %d of the last 1000 are remembered", recent)
		}
	})
}
