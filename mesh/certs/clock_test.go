package certs_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// clock is a wall clock that is set.
type clock struct{ ahead atomic.Int64 }

func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

func (f *fixture) clock() *clock {
	c := new(clock)
	f.manager.SetAhead(func() time.Duration { return time.Duration(c.ahead.Load()) })
	return c
}

// pass lets d pass and returns how many requests there were meanwhile.
func (f *fixture) pass(d time.Duration) int {
	before := len(f.ca.diary())
	time.Sleep(d)
	synctest.Wait()
	return len(f.ca.diary()) - before
}

func TestClockSetAheadOfTheExpiryRenewsAtOnce(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		c := f.clock()
		f.manager.Set(f.accounts(20))
		f.pass(time.Minute)
		c.set(23 * time.Hour)
		if n := f.pass(11 * time.Second); n != 20 {
			t.Errorf("%d requests within seconds, want one for each of 20 identities", n)
		}
		if f.ca.most > 8 {
			t.Errorf("%d requests at a time", f.ca.most)
		}
	})
}

func TestClockSetAheadALittleRenewsEarlierByThat(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		c := f.clock()
		f.manager.Set(f.accounts(20))
		f.pass(time.Minute)
		c.set(6 * time.Hour)
		if n := f.pass(4 * time.Hour); n != 0 { // in all 10 h of 24, where 10.8 are the least
			t.Errorf("%d requests before 45 %% of the life", n)
		}
		if n := f.pass(2 * time.Hour); n != 20 {
			t.Errorf("%d requests by half of the life, want 20", n)
		}
	})
}

func TestClockTurnedBackMakesNoStormAndPutsNothingOff(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		c := f.clock()
		f.manager.Set(f.accounts(20))
		f.pass(time.Minute)
		c.set(-10 * 365 * 24 * time.Hour)
		if n := f.pass(10 * time.Hour); n != 0 {
			t.Errorf("%d requests before 45 %% of the life", n)
		}
		for range 3 { // half a life each, give or take the spread
			if n := f.pass(life / 2); n < 20 || n > 40 {
				t.Errorf("%d requests in half of a life, want about 20", n)
			}
		}
	})
}

// A machine that begins with a wrong clock refuses every certificate; once the clock is right it must not wait for the time that it
// had thought it was.
func TestClockThatIsPutRightIsHeeded(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		c := f.clock()
		c.set(365 * 24 * time.Hour)
		id := f.accounts(1)[0]
		f.manager.Set(f.accounts(1))
		f.pass(time.Hour)
		if state := f.state(id); state == "Available" {
			t.Fatal("an expired certificate is taken")
		}
		c.set(0)
		f.pass(3 * time.Minute)
		if state := f.state(id); state != "Available" {
			t.Errorf("three minutes after the clock was put right the certificate is %s", state)
		}
	})
}
