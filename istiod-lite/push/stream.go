package push

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// window is how long a stream rests after it sent something because of a change, so that a burst becomes one push.
	window = 10 * time.Millisecond
	// patience is that of streams, but for tests that can't wait.
	patience = 30 * time.Second
	// greeting is how long a new stream may take to its first request.
	greeting = 10 * time.Second
	// gathering is how long the first answers wait for the proxy's other subscriptions, so that their order holds for a
	// proxy that comes back, too: it asks for one type after the other.
	gathering = 100 * time.Millisecond
)

// order is that in which the types of a round are sent. A policy is known before the workload or service that it is
// about, and goes after it; so do routes, whose backends a waypoint waits for.
var order = [...]string{Authorization, L7, Address}

// stream is one proxy's connection. Its fields belong to the goroutine of run, but for those in shown.
type stream struct {
	log     *Log
	metrics *metrics
	logger  *slog.Logger
	node    string // where a node's proxy runs, as proven; its pods' addresses come unasked
	view    *view  // of a waypoint; nil for a node's proxy, which sees everything but L7 resources
	// patience is how long the proxy may take to read and acknowledge what it was sent. Nothing more is sent meanwhile, so
	// one that doesn't read costs no memory, and after this time its stream.
	patience time.Duration

	requests <-chan *request
	send     chan<- []*response
	sent     <-chan error // one per round

	subscriptions map[string]*subscription
	outstanding   map[string]pushed // by nonce
	sending       bool
	nonces        uint64
	began         time.Time // of the first request
	lastRound     time.Time
	noticed       time.Time // of the oldest change in this round; zero if none
	pending       time.Time // of the oldest change not yet sent; zero if none
	shown         *shown
}

// run answers requests and sends changes until the proxy goes, or has to. Rounds don't overlap: the next begins when
// everything of the last was sent and acknowledged, and then has all that changed meanwhile, once.
func (s *stream) run(ctx context.Context) error {
	deadline := time.NewTimer(greeting)
	defer deadline.Stop()
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		changed := s.log.Changed()
		if s.idle() && len(s.subscriptions) > 0 {
			s.proceed(deadline, wake)
		}
		select {
		case <-ctx.Done():
			return nil
		case request, open := <-s.requests:
			if !open {
				return nil
			}
			if err := s.request(request); err != nil {
				return err
			}
		case err := <-s.sent:
			s.sending = false
			if err != nil {
				return err
			}
			s.settle()
		case <-changed:
			s.notice()
		case <-wake.C:
		case <-deadline.C:
			return s.cut()
		}
	}
}

// proceed begins the next round, or sets the timer to when it may begin. What was sent has a deadline; waiting has none,
// nor has a round in which nothing was owed, since what changed isn't what this proxy asked for.
func (s *stream) proceed(deadline, wake *time.Timer) {
	wait, due := s.next()
	switch {
	case due && wait <= 0:
		s.round()
	case due:
		wake.Reset(wait)
	}
	if s.idle() {
		deadline.Stop()
	} else {
		deadline.Reset(s.patience)
	}
}

// idle tells whether the last round is over.
func (s *stream) idle() bool { return !s.sending && len(s.outstanding) == 0 }

// notice notes when the first change came that isn't sent. It may have been sent just now.
func (s *stream) notice() {
	if _, due := s.next(); due && s.pending.IsZero() {
		s.pending = time.Now()
	}
}

// next tells whether there is something to send, and how long to wait for more. Answers to a request don't wait.
func (s *stream) next() (wait time.Duration, due bool) {
	s.log.lock.Lock()
	head := s.log.head
	s.log.lock.Unlock()
	wait = time.Until(s.lastRound.Add(window))
	if s.lastRound.IsZero() && len(s.subscriptions) < len(order) {
		if wait = time.Until(s.began.Add(gathering)); wait > 0 {
			return wait, true
		}
	}
	for _, subscribed := range s.subscriptions {
		if subscribed.owed {
			return 0, true
		}
		due = due || subscribed.due(head)
	}
	return wait, due
}

// pushed is what is remembered of a response until it is acknowledged.
type pushed struct {
	typeURL, version string
	resources        []string // a few of their names
}

// round sends what every subscription is owed: policies, then L7 resources, then addresses, then what else is no more.
func (s *stream) round() {
	var responses, farewells []*response
	s.log.lock.Lock()
	for _, typeURL := range order {
		subscribed := s.subscriptions[typeURL]
		if subscribed == nil {
			continue
		}
		d, answer := subscribed.take(s.source(typeURL), s.log.head)
		if typeURL != Address && len(d.removed) > 0 && s.subscriptions[Address] != nil {
			farewells = append(farewells, s.response(typeURL, delta{removed: d.removed}))
			answer, d.removed = len(d.resources) > 0, nil
		}
		if answer {
			responses = append(responses, s.response(typeURL, d))
		}
	}
	s.log.lock.Unlock()
	responses = append(responses, farewells...)
	noticed := s.pending
	s.pending = time.Time{}
	if len(responses) == 0 {
		return
	}
	s.noticed = noticed
	s.dispatch(responses)
}

// source is where the proxy's resources of a type come from. The log is locked.
func (s *stream) source(typeURL string) source {
	all := s.log.tables[typeURL]
	switch {
	case s.view == nil:
		return source{unasked: all, asked: all}
	case typeURL == Address:
		return source{unasked: s.view.tables[typeURL], asked: all}
	}
	return source{unasked: s.view.tables[typeURL], asked: s.view.tables[typeURL]}
}

func (s *stream) dispatch(responses []*response) {
	s.lastRound = time.Now()
	for _, response := range responses {
		s.outstanding[response.nonce] = pushed{response.typeURL, response.version, some(response)}
		s.metrics.pushes.WithLabelValues(short(response.typeURL)).Inc()
		s.shown.sent(response.typeURL, response.version, s.lastRound)
	}
	s.sending = true
	s.send <- responses // has room: the sender is done with the last round
}

// response makes a response of a delta. The log is locked.
func (s *stream) response(typeURL string, d delta) *response {
	s.nonces++
	return &response{
		version: strconv.FormatUint(s.log.head, 10), typeURL: typeURL, resources: d.resources, removed: d.removed,
		nonce: strconv.FormatUint(s.nonces, 10),
	}
}

// request takes in a subscription, an acknowledgement, or both.
func (s *stream) request(r *request) error {
	if s.log.tables[r.TypeUrl] == nil {
		return status.Errorf(codes.InvalidArgument, "resources of type %q are not served here", r.TypeUrl)
	}
	if r.TypeUrl == L7 && s.view == nil {
		return status.Errorf(codes.PermissionDenied, "resources of type %q are for waypoints", r.TypeUrl)
	}
	if r.ResponseNonce != "" {
		s.acknowledge(r)
	}
	subscribed := s.subscriptions[r.TypeUrl]
	first := subscribed == nil
	if len(s.subscriptions) == 0 {
		s.began = time.Now()
	}
	if first {
		subscribed = &subscription{cursor: s.log.open(), node: s.node}
		s.subscriptions[r.TypeUrl] = subscribed
	}
	if !subscribed.request(first, r) {
		return status.Errorf(codes.ResourceExhausted, "more than %d names subscribed to: subscribe to *", maxNames)
	}
	return nil
}

// close gives the cursors and the view back.
func (s *stream) close() {
	for _, subscribed := range s.subscriptions {
		s.log.close(subscribed.cursor)
	}
	if s.view != nil {
		s.log.closeView(s.view)
	}
}

// acknowledge notes that a response was read, or what was wrong with it. Answers to older responses are ignored.
func (s *stream) acknowledge(r *request) {
	answered, known := s.outstanding[r.ResponseNonce]
	if !known || answered.typeURL != r.TypeUrl {
		s.metrics.expiredNonces.Inc()
		return
	}
	delete(s.outstanding, r.ResponseNonce)
	s.shown.acknowledged(answered, r.ErrorDetail, time.Now())
	if r.ErrorDetail != nil {
		// What it rejected isn't sent again before it changes.
		s.metrics.rejects.WithLabelValues(short(r.TypeUrl)).Inc()
		s.logger.Warn("proxy rejected resources", "type", short(r.TypeUrl), "err", r.ErrorDetail.Message, "resources", answered.resources)
	}
	s.settle()
}

// settle notes how long a change took until the proxy had it.
func (s *stream) settle() {
	if s.idle() && !s.noticed.IsZero() {
		s.metrics.convergence.Observe(time.Since(s.noticed).Seconds())
		s.noticed = time.Time{}
	}
}

// cut ends the stream of a proxy that doesn't keep up. It comes back when it can, with the versions that it has.
func (s *stream) cut() error {
	if len(s.subscriptions) == 0 {
		return status.Errorf(codes.DeadlineExceeded, "no request within %s", greeting)
	}
	s.metrics.writeTimeouts.Inc()
	s.logger.Warn("proxy cut off: it doesn't read or acknowledge what it is sent", "after", s.patience)
	return status.Errorf(codes.Aborted, "a push was not acknowledged within %s", s.patience)
}

// some names a few of the resources in a response, for people.
func some(response *response) []string {
	const few = 5
	var names []string
	for _, resource := range response.resources[:min(few+1, len(response.resources))] {
		names = append(names, resource.name)
	}
	names = append(names, response.removed[:min(few+1, len(response.removed))]...)
	if len(names) > few {
		names = append(slices.Clip(names[:few]), "…")
	}
	return names
}

// short is how Istio's metrics call a type.
func short(typeURL string) string {
	switch typeURL {
	case Authorization:
		return "wads"
	case L7:
		return "l7"
	}
	return "wds"
}
