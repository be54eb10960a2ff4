package loop

import "time"

// Timer calls Run on its loop at a point in time. Set Run before the first use; the zero value otherwise is a timer that is
// not set. It belongs to one loop's goroutine.
type Timer struct {
	Run func()

	due   time.Time
	place int // in the heap, from 1; 0 means not set
}

// Set makes the timer fire at due, instead of whenever it would have.
func (l *Loop) Set(t *Timer, due time.Time) {
	if t.place != 0 {
		if t.due.Equal(due) {
			return
		}
		l.timers.remove(t)
	}
	t.due = due
	l.timers.add(t)
}

// After makes the timer fire when d has passed since the turn began.
func (l *Loop) After(t *Timer, d time.Duration) { l.Set(t, l.now.Add(d)) }

// Stop makes the timer not fire.
func (l *Loop) Stop(t *Timer) {
	if t.place != 0 {
		l.timers.remove(t)
	}
}

// timers is a binary heap by due. The first is at index 1.
type timers struct {
	heap []*Timer
}

func (h *timers) next() (due time.Time, any bool) {
	if len(h.heap) < 2 {
		return time.Time{}, false
	}
	return h.heap[1].due, true
}

// run fires what is due. Timers that are set meanwhile wait for the next turn, even if they are due already.
func (h *timers) run(now time.Time) {
	var fire []*Timer
	for due, any := h.next(); any && !due.After(now); due, any = h.next() {
		t := h.heap[1]
		h.remove(t)
		t.place = -1
		fire = append(fire, t)
	}
	for _, t := range fire {
		if t.place == -1 { // neither stopped nor set anew by one of the others
			t.place = 0
			t.Run()
		}
	}
}

func (h *timers) add(t *Timer) {
	if len(h.heap) == 0 {
		h.heap = append(h.heap, nil)
	}
	h.heap = append(h.heap, t)
	h.up(t, len(h.heap)-1)
}

func (h *timers) remove(t *Timer) {
	place := t.place
	t.place = 0
	if place < 0 { // about to fire
		return
	}
	end := len(h.heap) - 1
	last := h.heap[end]
	h.heap[end] = nil
	h.heap = h.heap[:end]
	if last == t {
		return
	}
	if place > 1 && last.due.Before(h.heap[place/2].due) {
		h.up(last, place)
	} else {
		h.down(last, place)
	}
}

// up puts t at place or further up.
func (h *timers) up(t *Timer, place int) {
	for place > 1 && t.due.Before(h.heap[place/2].due) {
		h.put(h.heap[place/2], place)
		place /= 2
	}
	h.put(t, place)
}

// down puts t at place or further down.
func (h *timers) down(t *Timer, place int) {
	for {
		child := 2 * place
		if child+1 < len(h.heap) && h.heap[child+1].due.Before(h.heap[child].due) {
			child++
		}
		if child >= len(h.heap) || !h.heap[child].due.Before(t.due) {
			break
		}
		h.put(h.heap[child], place)
		place = child
	}
	h.put(t, place)
}

func (h *timers) put(t *Timer, place int) {
	h.heap[place] = t
	t.place = place
}
