package loop

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever is set, moved and stopped: timers fire when they are due, in the order in which they are due.
func TestTimersFireInOrder(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var h timers
		start := time.Unix(1000, 0)
		now := start
		due := map[*Timer]time.Time{} // what we expect, of those that are set
		l := &Loop{timers: h, now: start}
		all := make([]*Timer, 40)
		var fired []*Timer
		for i := range all {
			all[i] = &Timer{}
			all[i].Run = func() { fired = append(fired, all[i]) }
		}
		for range 500 {
			t1 := all[r.IntN(len(all))]
			switch r.IntN(5) {
			case 0:
				l.Stop(t1)
				delete(due, t1)
			case 1:
				now = now.Add(time.Duration(r.IntN(20)) * time.Second)
				fired = nil
				l.timers.run(now)
				checkFired(t, fired, due, now)
			default:
				at := start.Add(time.Duration(r.IntN(3000)) * time.Second)
				l.Set(t1, at)
				due[t1] = at
			}
			checkHeap(t, &l.timers, due)
		}
	}
}

func checkFired(t *testing.T, fired []*Timer, due map[*Timer]time.Time, now time.Time) {
	t.Helper()
	for i, f := range fired {
		at, set := due[f]
		if !set || at.After(now) {
			t.Fatalf("a timer fired that was due at %v (%v), now is %v", at, set, now)
		}
		if i > 0 && at.Before(due[fired[i-1]]) {
			t.Fatal("timers fired out of order")
		}
	}
	for _, f := range fired {
		delete(due, f)
	}
	for _, at := range due {
		if !at.After(now) {
			t.Fatalf("the timer of %v did not fire at %v", at, now)
		}
	}
}

// checkHeap checks that the heap holds exactly the timers that are set, each after its parent.
func checkHeap(t *testing.T, h *timers, due map[*Timer]time.Time) {
	t.Helper()
	if n := max(0, len(h.heap)-1); n != len(due) {
		t.Fatalf("%d timers are in the heap, %d are set", n, len(due))
	}
	for place := 1; place < len(h.heap); place++ {
		timer := h.heap[place]
		if timer.place != place || !timer.due.Equal(due[timer]) {
			t.Fatalf("place %d: timer says %d, due %v, want %v", place, timer.place, timer.due, due[timer])
		}
		if place > 1 && timer.due.Before(h.heap[place/2].due) {
			t.Fatalf("place %d is due before its parent", place)
		}
	}
}

// Timers of one moment can stop and move each other; those that are set meanwhile wait for the next turn.
func TestTimersThatMeddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newManual(t)
		var order []string
		var first, stopped, moved, again Timer
		again.Run = func() {
			order = append(order, "again")
			l.After(&again, 0)
		}
		first.Run = func() {
			order = append(order, "first")
			l.Stop(&stopped)
			l.After(&moved, time.Second)
			l.After(&again, 0)
		}
		stopped.Run = func() { order = append(order, "stopped") }
		moved.Run = func() { order = append(order, "moved") }
		for _, timer := range []*Timer{&first, &stopped, &moved} {
			l.After(timer, time.Minute)
		}
		for turn, want := range [][]string{{}, {"first"}, {"again"}, {"again", "moved"}} {
			if order = nil; turn == 1 {
				time.Sleep(time.Minute)
			} else if turn == 3 {
				l.Stop(&again)
				l.After(&again, 0)
				time.Sleep(time.Second)
			}
			l.Turn()
			if !slices.Equal(order, want) {
				t.Errorf("turn %d fires %q, want %q", turn, order, want)
			}
		}
	})
}

// A loop waits until the first timer is due, not longer, and for ever without one.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newManual(t)
		if wait := l.Turn(); wait >= 0 {
			t.Errorf("an idle loop waits %v, want for ever", wait)
		}
		timers := make([]*Timer, 3)
		for i := range timers {
			timers[i] = &Timer{Run: func() {}}
			l.After(timers[i], time.Duration(3-i)*time.Hour)
		}
		if wait := l.Turn(); wait != time.Hour {
			t.Errorf("the loop waits %v, want 1h", wait)
		}
		l.Stop(timers[2])
		if wait := l.Turn(); wait != 2*time.Hour {
			t.Errorf("the loop waits %v, want 2h", wait)
		}
		time.Sleep(3 * time.Hour)
		if wait := l.patience(); wait != 0 {
			t.Errorf("with timers due the loop waits %v", wait)
		}
		if wait := l.Turn(); wait >= 0 {
			t.Errorf("a loop without timers waits %v", wait)
		}
		_ = l.Post(func() {})
		if wait := l.patience(); wait != 0 {
			t.Errorf("with a post the loop waits %v", wait)
		}
	})
}
