// Package loop runs sockets on event loops: each Loop is one goroutine with an epoll instance of its own, timers, and a queue of
// functions from others.
//
// What a loop does in a turn, in this order:
//
//  1. wait      for sockets, timers and posts, not at all when something is queued      poll.go
//  2. posts     functions from other goroutines, in the order they came                 Post
//  3. timers    those that are due                                                      timer.go
//  4. sockets   tells every handler what its socket is ready for; handlers only note it or queue a task
//  5. input     the tasks queued by Input before this step                              task.go
//  6. output    the tasks queued by Output before this step
//
// A task that has more to do than is fair in one turn queues itself again and runs in the next. Nothing that runs on a loop
// may block. All methods but Post, Do and Close are for the loop's own goroutine.
package loop

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrClosed says that the loop has ended.
var ErrClosed = errors.New("the event loop is closed")

// Loop is one event loop.
type Loop struct {
	poll    poller
	now     time.Time
	timers  timers
	inputs  queue
	outputs queue
	buffers buffers
	ended   chan struct{} // closed when the goroutine is done
	manual  bool          // there is no goroutine

	mu     sync.Mutex
	posted []func()
	awake  bool // the loop will look at posted without being woken
	closed bool
}

// New starts a loop.
func New() (*Loop, error) {
	l, err := Manual()
	if err != nil {
		return nil, err
	}
	l.manual = false
	go l.run()
	return l, nil
}

// Manual makes a loop without a goroutine of its own: it goes on when Turn is called, and the caller stands for the goroutine. So tests can
// let hours pass (testing/synctest), which they could not while one waits in the kernel.
func Manual() (*Loop, error) {
	l := &Loop{now: time.Now(), ended: make(chan struct{}), manual: true}
	if err := l.poll.open(); err != nil {
		return nil, fmt.Errorf("event loop: %w", err)
	}
	return l, nil
}

// Turn goes through one turn of a Manual loop without waiting. When there were events or posts it returns 0, since they may have
// brought about others; else how long a loop would wait before the next turn if nothing came, negative for ever.
func (l *Loop) Turn() time.Duration {
	n := l.poll.wait(0)
	l.mu.Lock()
	busy := n > 0 || len(l.posted) > 0
	l.mu.Unlock()
	l.work(n)
	if busy {
		return 0
	}
	return l.patience()
}

// Now is the time at which the current turn began to work.
func (l *Loop) Now() time.Time { return l.now }

// Post has f run on the loop's goroutine, soon, and returns at once. It fails when the loop is closed; f will not run then.
func (l *Loop) Post(f func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.posted = append(l.posted, f)
	if !l.awake {
		l.awake = true
		l.poll.wake()
	}
	return nil
}

// Do has f run on the loop's goroutine and waits until it has. It must not be called on a loop's goroutine.
func (l *Loop) Do(f func()) error {
	done := make(chan struct{})
	if err := l.Post(func() { defer close(done); f() }); err != nil {
		return err
	}
	<-done
	return nil
}

// Close runs what was posted, ends the loop and waits for its goroutine. Sockets that are still watched are not closed.
func (l *Loop) Close() {
	l.mu.Lock()
	first := !l.closed
	if first {
		l.closed = true
		l.poll.wake()
	}
	l.mu.Unlock()
	if first && l.manual {
		l.run()
	}
	<-l.ended
}

func (l *Loop) run() {
	defer close(l.ended)
	for l.work(l.poll.wait(l.patience())) {
	}
	l.buffers.close()
	l.poll.close()
}

// work goes through a turn with n events, and tells whether there is another.
func (l *Loop) work(n int) bool {
	l.now = time.Now()
	going := l.runPosted()
	l.timers.run(l.now)
	l.poll.dispatch(n)
	l.inputs.run()
	l.outputs.run()
	return going
}

// patience is how long the loop may wait for events; negative means for ever.
func (l *Loop) patience() time.Duration {
	if !l.inputs.empty() || !l.outputs.empty() {
		return 0
	}
	due, any := l.timers.next()
	wait := time.Duration(-1)
	if any {
		wait = max(0, time.Until(due))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.posted) > 0 || l.closed {
		return 0
	}
	l.awake = wait == 0
	return wait
}

// runPosted runs what others have posted, and tells whether the loop goes on.
func (l *Loop) runPosted() bool {
	l.mu.Lock()
	l.awake = true // what is posted from now on is seen before the next wait
	functions, closed := l.posted, l.closed
	l.posted = nil
	l.mu.Unlock()
	for _, f := range functions {
		f()
	}
	return !closed
}
