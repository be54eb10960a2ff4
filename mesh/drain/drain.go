// Package drain is the way a program ends: it takes nothing new, lets what runs finish until a deadline, then cuts.
package drain

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Drain goes from running over draining to forced, never back. It is safe for concurrent use.
type Drain struct {
	deadline time.Duration
	once     sync.Once
	timer    *time.Timer // guarded by once

	draining context.Context
	start    context.CancelCauseFunc
	forced   context.Context
	force    context.CancelCauseFunc
}

// New returns a Drain whose graceful part lasts at most the deadline.
func New(deadline time.Duration) *Drain {
	d := &Drain{deadline: deadline}
	d.draining, d.start = context.WithCancelCause(context.Background())
	d.forced, d.force = context.WithCancelCause(context.Background())
	return d
}

// Start begins to drain and says why. Only the first call counts.
func (d *Drain) Start(reason string) {
	d.once.Do(func() {
		d.timer = time.AfterFunc(d.deadline, func() { d.force(errors.New("drain deadline passed")) })
		d.start(errors.New(reason))
	})
}

// Force ends the graceful part at once. A program calls it last of all, too, so that no timer stays behind.
func (d *Drain) Force(reason string) {
	d.Start(reason)
	d.timer.Stop()
	d.force(errors.New(reason))
}

// Draining ends when the program should take nothing new; its cause is the reason.
func (d *Drain) Draining() context.Context { return d.draining }

// Forced ends when what still runs must be cut. It outlives Draining.
func (d *Drain) Forced() context.Context { return d.forced }

// Signals starts at the first SIGTERM or SIGINT, forces at the second, and returns when forced or when ctx ends. It logs
// nothing: the causes of Draining and Forced name the signal.
func (d *Drain) Signals(ctx context.Context) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	d.watch(ctx, signals)
}

func (d *Drain) watch(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case s := <-signals:
			if d.draining.Err() != nil {
				d.Force("second signal: " + s.String())
				return
			}
			d.Start("signal: " + s.String())
		case <-d.forced.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}
