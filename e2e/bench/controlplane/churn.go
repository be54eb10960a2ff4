package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/e2e/delta"
)

// kind of a change, with how often it happens among ten.
type kind int

const (
	label     kind = iota // a new version
	readiness             // the pod becomes unready, or ready again
	deletion
	creation // of a pod that was deleted before
)

var often = [...]kind{label, label, label, label, readiness, readiness, readiness, readiness, deletion, creation}

// event is one change of one pod. A pod has one at a time.
type event struct {
	kind    kind
	pod     int
	version string // after it
	ready   bool   // after it

	lock     sync.Mutex // guards what follows
	watched  time.Time  // when the plain watch had it
	received []time.Time
}

// churn changes pods, and notes when the plain watch and when each client hears of it.
type churn struct {
	*bench
	random *rand.Rand
	order  []int // pods, in the order in which they are changed next
	state  map[int]podState

	lock   sync.Mutex // guards what follows
	gone   []*event   // deletions, of pods that can be created again once all have heard of it
	open   map[string]*event
	byPod  map[string]*event // by namespace/name
	events []*event
	sent   sync.WaitGroup
	errs   []error
}

type podState struct {
	unready  bool
	sequence int
}

func newChurn(b *bench) *churn {
	random := rand.New(rand.NewPCG(1, uint64(b.size.pods)))
	return &churn{bench: b, random: random, order: random.Perm(b.size.pods), state: map[int]podState{}, open: map[string]*event{}, byPod: map[string]*event{}}
}

// run makes changes at random moments, so many a second on average, for a while, and waits until all is received.
func (c *churn) run(ctx context.Context, rate int, duration time.Duration) ([]*event, error) {
	c.lock.Lock()
	c.events, c.open, c.byPod = nil, map[string]*event{}, map[string]*event{}
	c.lock.Unlock()
	began := time.Now()
	next := began
	for time.Since(began) < duration {
		next = next.Add(time.Duration(c.random.ExpFloat64() / float64(rate) * float64(time.Second)))
		select {
		case <-time.After(time.Until(next)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		e := c.choose()
		c.begin(e)
		c.sent.Go(func() {
			if err := c.change(ctx, e); err != nil {
				c.lock.Lock()
				c.errs = append(c.errs, err)
				c.lock.Unlock()
			}
		})
	}
	c.sent.Wait()
	return c.events, errors.Join(errors.Join(c.errs...), c.settle(ctx))
}

// choose decides on the next change. Pods come around again as late as possible.
func (c *churn) choose() *event {
	c.lock.Lock()
	defer c.lock.Unlock()
	kind := often[c.random.IntN(len(often))]
	if kind == creation && (len(c.gone) == 0 || !c.gone[0].over(c.clients-1)) {
		kind = label // a pod that is there again at once may never be missed
	}
	e := &event{kind: kind, received: make([]time.Time, c.clients)}
	if kind == creation {
		e.pod, c.gone = c.gone[0].pod, c.gone[1:]
	} else {
		e.pod, c.order = c.order[0], c.order[1:]
	}
	s := c.state[e.pod]
	s.sequence++
	switch kind {
	case readiness:
		s.unready = !s.unready
	case creation:
		s.unready = false
	}
	c.state[e.pod] = s
	e.version, e.ready = fmt.Sprintf("v%d", s.sequence), !s.unready
	if kind != deletion {
		c.order = append(c.order, e.pod)
	}
	return e
}

func (c *churn) begin(e *event) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.open["Kubernetes//Pod/"+c.size.namespace(e.pod)+"/"+podName(c.size, e.pod)] = e
	c.byPod[c.size.namespace(e.pod)+"/"+podName(c.size, e.pod)] = e
	c.events = append(c.events, e)
}

func (c *churn) change(ctx context.Context, e *event) error {
	switch e.kind {
	case label:
		return c.writer.label(ctx, e.pod, e.version, e.ready)
	case readiness:
		return c.writer.turn(ctx, e.pod, e.version, e.ready)
	case creation:
		return c.writer.create(ctx, e.pod, e.version)
	}
	err := c.writer.delete(ctx, e.pod)
	if err == nil {
		c.lock.Lock()
		defer c.lock.Unlock()
		c.gone = append(c.gone, e)
	}
	return err
}

// observe notes what the plain watch tells.
func (c *churn) observe(one sight) {
	c.lock.Lock()
	e := c.byPod[one.Pod]
	c.lock.Unlock()
	if e == nil || !e.isDone(one) {
		return
	}
	e.lock.Lock()
	defer e.lock.Unlock()
	if e.watched.IsZero() {
		e.watched = one.At
	}
}

// isDone tells whether what a watch says of a pod is the event's outcome.
func (e *event) isDone(one sight) bool {
	switch {
	case e.kind == deletion || one.Deleted:
		return e.kind == deletion && one.Deleted
	case e.kind == readiness:
		return one.Ready == e.ready
	}
	return one.Version == e.version && one.Addressed
}

// receive notes what a client is sent.
func (c *churn) receive(client int, r *delta.Response) {
	if r.TypeURL != delta.Address {
		return
	}
	now := time.Now()
	for _, resource := range r.Resources {
		c.note(client, resource.Name, false, now)
	}
	for _, name := range r.Removed {
		c.note(client, name, true, now)
	}
}

func (c *churn) note(client int, name string, removed bool, now time.Time) {
	c.lock.Lock()
	e := c.open[name]
	c.lock.Unlock()
	if e == nil || removed != (e.kind == deletion) {
		return
	}
	e.lock.Lock()
	defer e.lock.Unlock()
	if e.received[client].IsZero() {
		e.received[client] = now
	}
}

// reached tells whether the plain watch, and whether so many clients have heard of the event.
func (e *event) reached(clients int) (watched, heard bool) {
	e.lock.Lock()
	defer e.lock.Unlock()
	return !e.watched.IsZero(), !slices.ContainsFunc(e.received[:clients], time.Time.IsZero)
}

// over tells whether all have heard of the event.
func (e *event) over(clients int) bool {
	watched, heard := e.reached(clients)
	return watched && heard
}

// settle waits until every client but the stuck one has heard of every event.
func (c *churn) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		unwatched, unheard := 0, 0
		for _, e := range c.events {
			if watched, heard := e.reached(c.clients - 1); !watched {
				unwatched++
			} else if !heard {
				unheard++
			}
		}
		if unwatched+unheard == 0 {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("of %d changes the plain watch lacks %d, and some client %d more: %w", len(c.events), unwatched, unheard, context.Cause(ctx))
		}
	}
}

// latencies are how much later than the plain watch the clients heard of the events, sorted.
func (c *churn) latencies(events []*event) []time.Duration {
	var all []time.Duration
	for _, e := range events {
		for _, received := range e.received[:c.clients-1] {
			all = append(all, received.Sub(e.watched))
		}
	}
	slices.Sort(all)
	return all
}
