// Package worker is the event loops of proxies: a worker is a loop that can also make sockets inside pods. A connection stays on the
// worker that accepted it, with everything that it needs.
package worker

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Worker is one event loop. Its methods but those of loop.Loop that say otherwise are for its own goroutine.
type Worker struct {
	*loop.Loop
	Index   int // among all workers, from 0
	visitor *socket.Visitor
	goHome  loop.Task
}

// Start makes n workers.
func Start(n int) ([]*Worker, error) {
	var workers []*Worker
	for i := range n {
		w, err := start(i)
		if err != nil {
			Close(workers)
			return nil, err
		}
		workers = append(workers, w)
	}
	return workers, nil
}

func start(index int) (*Worker, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	w := &Worker{Loop: l, Index: index}
	_ = l.Do(func() { w.visitor, err = socket.NewVisitor() })
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("worker: %w", err)
	}
	w.goHome.Run = w.leave
	return w, nil
}

// Close ends all workers. Nothing may be left on them that still matters.
func Close(workers []*Worker) {
	for _, w := range workers {
		w.Loop.Close()
		w.visitor.Close()
	}
}

// leave is the last thing in a turn in which a socket was made.
func (w *Worker) leave() {
	if err := w.visitor.GoHome(); err != nil {
		panic(fmt.Sprintf("worker: %v", err)) // a thread that is lost in a pod would serve all others from there
	}
}

// Ask has ask wait in a goroutine, and goes on with next on the worker, unless cancel is called there before. ctx, and cancel,
// end the wait. ask must not touch what belongs to the worker.
func (w *Worker) Ask(ctx context.Context, ask func(context.Context) error, next func(error)) (cancel func()) {
	ctx, end := context.WithCancel(ctx)
	cancelled := false
	go func() {
		err := ask(ctx)
		_ = w.Post(func() { // fails only when the program has ended
			end()
			if !cancelled {
				next(err)
			}
		})
	}()
	return func() {
		cancelled = true
		end()
	}
}

// Dialling is a connection that is being made.
type Dialling struct {
	fd         int
	connecting *loop.Connecting
}

// Cancel gives up and closes the socket; done isn't called any more. Don't call it after done.
func (d *Dialling) Cancel() {
	d.connecting.Cancel()
	_ = unix.Close(d.fd)
}

// Dial connects from inside the namespace, within cfg.Timeout or 10 s, and calls done once, after Dial has returned, with a
// connected, non-blocking socket or an error. An error that is known at once, as that a local port is taken, is returned
// instead.
func (w *Worker) Dial(netns *socket.Netns, to netip.AddrPort, cfg socket.DialConfig, done func(fd int, err error)) (*Dialling, error) {
	fd, err := w.visitor.Dial(netns, to, cfg)
	if w.visitor.Away() {
		w.Output(&w.goHome)
	}
	if err != nil {
		return nil, err
	}
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	d := &Dialling{fd: fd}
	d.connecting = w.AwaitConnect(fd, timeout, func(err error) {
		if err != nil {
			_ = unix.Close(fd)
			done(-1, fmt.Errorf("dial %s: %w", to, err))
			return
		}
		done(fd, nil)
	})
	return d, nil
}
