// Package lead chooses one of several control planes for work that must have a single hand: whoever holds the election's
// lock works, and has stopped before another can begin.
//
// The lock is a record that its holder renews. Clocks of different machines are never compared: a record counts for its
// duration from when it was seen to change. Records and their places are those of client-go and of Istio's control plane, so
// that both keep off what the other has; client-go's own elector isn't used since it works on while it lets the lock go,
// and brings in every type of Kubernetes.
package lead

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"k8s.io/client-go/dynamic"
)

// Election is one sort of work with its lock.
type Election struct {
	Name string
	// ConfigMap says that the lock is an annotation of a ConfigMap, not a Lease.
	ConfigMap bool
	// PerRevision says that every revision of the control plane has a leader, for the objects that are its own.
	PerRevision bool
}

// Of returns the election of a revision; the default one is empty.
func (e Election) Of(revision string) Election {
	if e.PerRevision && revision != "" {
		e.Name += "-" + revision
	}
	return e
}

// The sorts of work. Names and sorts of locks are Istio's.
var (
	Status        = Election{Name: "istio-status-leader", PerRevision: true}
	GatewayDeploy = Election{Name: "istio-gateway-deployment", PerRevision: true}
	Roots         = Election{Name: "istio-namespace-controller-election", ConfigMap: true}
	Addresses     = Election{Name: "istio-ip-autoallocate", ConfigMap: true}
	Webhook       = Election{Name: "istio-validation-controller-election"}
)

// Config is what an election needs.
type Config struct {
	Election Election
	// Namespace is the control plane's.
	Namespace string
	// Identity names this control plane: the name of its pod. What tells it from others is drawn for each start, so that two of
	// one name don't both lead.
	Identity string
	Client   dynamic.Interface
	// Term is for how long a leader that isn't heard of any more counts as one, in whole seconds. It gives up when it could not
	// renew for two thirds of it, and has the last third to stop in. 0 means 15 s.
	Term time.Duration
	// Work runs while this control plane leads; its context ends when it does no more. When it ends by itself it begins again
	// after a while.
	Work func(context.Context) error
	Log  *slog.Logger
}

// Run takes part in the election until the context ends, which isn't an error. The lock is let go only after the work has
// stopped. Work that doesn't stop within a third of the term after the lead was lost is an error: the process should end,
// since another may be writing by then.
func Run(ctx context.Context, c Config) error {
	if c.Term == 0 {
		c.Term = 15 * time.Second
	}
	c.Identity = fmt.Sprintf("%s_%08x", c.Identity, rand.Uint32())
	e := &elector{Config: c, lock: open(c)}
	e.Log = c.Log.With("election", c.Election.Name)
	return e.run(ctx)
}

// elector belongs to the goroutine of run.
type elector struct {
	Config
	lock lock

	seen    record    // the last that was read or written
	seenAt  time.Time // when it was first seen
	renewed time.Time // when the last record that was written as ours began to be
}

func (e *elector) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := e.try(ctx); err != nil || !e.holds() {
			if err != nil && ctx.Err() == nil {
				e.Log.Warn("taking part failed", "err", err)
			}
			e.pause(ctx)
			continue
		}
		if err := e.lead(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (e *elector) holds() bool { return e.seen.Holder == e.Identity }

// pause waits until the next attempt.
func (e *elector) pause(ctx context.Context) {
	sixth := e.Term / 6
	timer := time.NewTimer(sixth*3/4 + rand.N(sixth/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// try takes the lock if nobody has it, or renews it. It's no error if another has it.
func (e *elector) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.Term/3)
	defer cancel()
	at := time.Now()
	found, err := e.lock.read(ctx)
	if err != nil {
		return fmt.Errorf("read lock %s: %w", e.Election.Name, err)
	}
	if !found.equal(e.seen) {
		e.seen, e.seenAt = found, at
	}
	left := e.seenAt.Add(time.Duration(found.Seconds) * time.Second).Sub(at)
	if found.Holder != e.Identity && found.Holder != "" && left > 0 {
		return nil
	}
	now := at.UTC().Truncate(time.Microsecond)
	next := record{Holder: e.Identity, Seconds: int(e.Term / time.Second), Renewed: now, Acquired: now, Transitions: found.Transitions}
	if found.Holder == e.Identity {
		next.Acquired = found.Acquired
	} else {
		next.Transitions++
	}
	if err := e.lock.write(ctx, next); err != nil {
		return fmt.Errorf("write lock %s: %w", e.Election.Name, err)
	}
	e.seen, e.seenAt, e.renewed = next, at, at
	return nil
}

// lead works for as long as the lock is held.
func (e *elector) lead(ctx context.Context) error {
	e.Log.Info("leading")
	working, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); e.work(working) }()
	e.renew(ctx)
	stop()
	late := time.NewTimer(e.Term / 3)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		return fmt.Errorf("work of election %s has not stopped within %s after its end: restart, another may be leading", e.Election.Name, e.Term/3)
	}
	e.Log.Info("leading no more")
	if ctx.Err() != nil && e.holds() {
		e.release(context.WithoutCancel(ctx))
	}
	return nil
}

// renew returns when the context ends, another has the lock, or two thirds of the term have passed since it was renewed.
func (e *elector) renew(ctx context.Context) {
	for {
		bounded, cancel := context.WithDeadline(ctx, e.renewed.Add(e.Term*2/3))
		e.pause(bounded)
		err := e.try(bounded)
		expired := bounded.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case !e.holds():
			e.Log.Warn("another leads", "leader", e.seen.Holder)
			return
		case err != nil && expired:
			e.Log.Warn("the lock could not be renewed in time", "err", err)
			e.seen = record{} // what became of the last attempt isn't known: it has to be read again
			return
		}
	}
}

// work repeats the work, should it end by itself.
func (e *elector) work(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := e.Work(ctx)
		if ctx.Err() != nil {
			return
		}
		e.Log.Error("work of the leader ended, it begins again", "err", err, "after", wait.String())
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// release says that nobody leads, so that others needn't wait for the end of the term.
func (e *elector) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, e.Term/3)
	defer cancel()
	now := time.Now().UTC()
	if err := e.lock.write(ctx, record{Seconds: 1, Renewed: now, Acquired: now, Transitions: e.seen.Transitions}); err != nil {
		e.Log.Warn("the lock could not be let go, others wait for the end of its term", "err", err)
	}
}
