package push

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
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

// sending order of a round. What policies a workload names is known before the workload; a policy goes after the
// workloads that named it.
var order = [...]string{Authorization, Address}

// stream is one proxy's connection. Its fields belong to the goroutine of run, but for those in shown.
type stream struct {
	log     *Log
	metrics *metrics
	logger  *slog.Logger
	node    string // where the proxy runs, as proven
	// patience is how long the proxy may take to read and acknowledge what it was sent. Nothing more is sent meanwhile, so
	// one that doesn't read costs no memory, and after this time its stream.
	patience time.Duration

	requests <-chan *discoveryv3.DeltaDiscoveryRequest
	send     chan<- []*discoveryv3.DeltaDiscoveryResponse
	sent     <-chan error // one per round

	subscriptions map[string]*subscription
	outstanding   map[string]*discoveryv3.DeltaDiscoveryResponse // by nonce
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

// round sends what every subscription is owed: policies, then addresses, then the policies that are no more.
func (s *stream) round() {
	var responses []*discoveryv3.DeltaDiscoveryResponse
	var farewell *discoveryv3.DeltaDiscoveryResponse
	version := ""
	s.log.lock.Lock()
	for _, typeURL := range order {
		subscribed := s.subscriptions[typeURL]
		if subscribed == nil {
			continue
		}
		version = strconv.FormatUint(s.log.head, 10)
		d, answer := subscribed.take(s.log.tables[typeURL], s.log.head)
		if typeURL == Authorization && len(d.removed) > 0 && s.subscriptions[Address] != nil {
			farewell = s.response(typeURL, delta{removed: d.removed}, version)
			answer, d.removed = len(d.resources) > 0, nil
		}
		if answer {
			responses = append(responses, s.response(typeURL, d, version))
		}
	}
	s.log.lock.Unlock()
	if farewell != nil {
		responses = append(responses, farewell)
	}
	noticed := s.pending
	s.pending = time.Time{}
	if len(responses) == 0 {
		return
	}
	s.noticed = noticed
	s.dispatch(responses)
}

func (s *stream) dispatch(responses []*discoveryv3.DeltaDiscoveryResponse) {
	s.lastRound = time.Now()
	for _, response := range responses {
		s.outstanding[response.Nonce] = response
		s.metrics.pushes.WithLabelValues(short(response.TypeUrl)).Inc()
		s.shown.sent(response, s.lastRound)
	}
	s.sending = true
	s.send <- responses // has room: the sender is done with the last round
}

func (s *stream) response(typeURL string, d delta, version string) *discoveryv3.DeltaDiscoveryResponse {
	s.nonces++
	return &discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: version, TypeUrl: typeURL, Resources: d.resources, RemovedResources: d.removed,
		Nonce: strconv.FormatUint(s.nonces, 10),
	}
}

// request takes in a subscription, an acknowledgement, or both.
func (s *stream) request(r *discoveryv3.DeltaDiscoveryRequest) error {
	if s.log.tables[r.TypeUrl] == nil {
		return status.Errorf(codes.InvalidArgument, "resources of type %q are not served here", r.TypeUrl)
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

// close gives the cursors back.
func (s *stream) close() {
	for _, subscribed := range s.subscriptions {
		s.log.close(subscribed.cursor)
	}
}

// acknowledge notes that a response was read, or what was wrong with it. Answers to older responses are ignored.
func (s *stream) acknowledge(r *discoveryv3.DeltaDiscoveryRequest) {
	response := s.outstanding[r.ResponseNonce]
	if response == nil || response.TypeUrl != r.TypeUrl {
		s.metrics.expiredNonces.Inc()
		return
	}
	delete(s.outstanding, r.ResponseNonce)
	s.shown.acknowledged(response, r.ErrorDetail.GetMessage(), time.Now())
	if r.ErrorDetail != nil {
		// What it rejected isn't sent again before it changes.
		s.metrics.rejects.WithLabelValues(short(r.TypeUrl)).Inc()
		s.logger.Warn("proxy rejected resources", "type", short(r.TypeUrl), "err", r.ErrorDetail.Message, "resources", some(response))
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

// some names a few of the resources in a response, for a log line.
func some(response *discoveryv3.DeltaDiscoveryResponse) []string {
	const few = 5
	var names []string
	for _, resource := range response.Resources {
		names = append(names, resource.Name)
	}
	names = append(names, response.RemovedResources...)
	if len(names) > few {
		names = append(slices.Clip(names[:few]), "…")
	}
	return names
}

// short is how Istio's metrics call a type.
func short(typeURL string) string {
	if typeURL == Authorization {
		return "wads"
	}
	return "wds"
}
