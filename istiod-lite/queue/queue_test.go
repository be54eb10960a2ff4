package queue

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func nothing(context.Context) {}

// running starts a queue for the time of a test, and returns when it takes keys.
func running(t *testing.T, work func(context.Context, string) error) *Queue[string] {
	q := New(work, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); q.Run(ctx, nothing) }()
	t.Cleanup(func() { cancel(); <-ended })
	synctest.Wait()
	return q
}

func TestFailedWorkIsDoneAgainLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		q := running(t, func(context.Context, string) error {
			at = append(at, time.Since(began))
			if len(at) < 5 {
				return errors.New("no answer")
			}
			return nil
		})
		q.Add("a")
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(at) != 5 || at[1] > time.Second || at[4]-at[3] < 2*(at[2]-at[1]) {
			t.Errorf("attempts at %v", at)
		}
	})
}

func TestWorkAboutOneKeyNeverOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lock sync.Mutex
		busy, done := map[string]int{}, map[string]int{}
		q := running(t, func(_ context.Context, key string) error {
			lock.Lock()
			if busy[key]++; busy[key] > 1 {
				t.Errorf("%d at once about %s", busy[key], key)
			}
			lock.Unlock()
			time.Sleep(time.Second)
			lock.Lock()
			defer lock.Unlock()
			busy[key]--
			done[key]++
			return nil
		})
		q.Add("a")
		q.Add("b")
		time.Sleep(time.Second / 2)
		for range 10 {
			q.Add("a") // while it is being worked on: once more for all
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if done["a"] != 2 || done["b"] != 1 {
			t.Errorf("worked %v", done)
		}
	})
}

func TestOneKeyThatHangsDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done, gaveUp time.Duration
		began := time.Now()
		q := running(t, func(ctx context.Context, key string) error {
			if key == "b" {
				done = time.Since(began)
				return nil
			}
			<-ctx.Done()
			if gaveUp == 0 {
				gaveUp = time.Since(began)
			}
			return ctx.Err()
		})
		q.Add("a")
		q.Add("b")
		time.Sleep(attempt + time.Second)
		synctest.Wait()
		if done != 0 || gaveUp != attempt {
			t.Errorf("b done after %s, a given up after %s", done, gaveUp)
		}
	})
}

func TestNothingIsRememberedWhileNobodyRunsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var worked []string
		q := New(func(_ context.Context, key string) error { worked = append(worked, key); return nil }, slog.New(slog.DiscardHandler))
		q.Add("before")
		for range 2 { // one lead after the other
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				q.Run(ctx, func(context.Context) { q.Add("all") })
			}()
			synctest.Wait()
			cancel()
			<-ended
			q.Add("between")
		}
		if len(worked) != 2 || worked[0] != "all" || worked[1] != "all" {
			t.Errorf("worked on %v", worked)
		}
	})
}
