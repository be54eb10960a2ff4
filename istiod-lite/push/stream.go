package push

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// window is how long a stream rests after it began a round, so that a burst of changes becomes one push. One that had to rest
	// before that round does so after it was over: where changes don't end, more of them share the work.
	window = 10 * time.Millisecond
	// patience is that of streams, but for tests that can't wait.
	patience = 30 * time.Second
	// greeting is how long a new stream may take to its first request once it is heard.
	greeting = 10 * time.Second
	// gathering is how long the first answers wait for the proxy's other subscriptions, so that their order holds for a
	// proxy that comes back, too: it asks for one type after the other.
	gathering = 100 * time.Millisecond
	// turns is how many new streams are heard at a time, each for turn at most; whoever has waited for queueing is heard anyway.
	turns    = 8
	turn     = 200 * time.Millisecond
	queueing = 5 * time.Second
	// more is for how many bytes of a round a proxy has its patience once more. In a large mesh many that come at once share a network
	// and a processor.
	more = 8 << 20
)

// order is that in which the types of a round are sent. A policy is known before the workload or service that it is
// about, and goes after it; so do routes, whose backends a waypoint waits for.
var order = [...]string{Authorization, L7, Address}

// stream is one proxy's connection. One goroutine receives requests, one pushes what is owed, and the handler waits for the
// end. Rounds don't overlap: the next begins when everything of the last was sent and acknowledged, and then has all that
// changed meanwhile, once.
type stream struct {
	server *Server
	log    *Log
	wire   wire
	caller Caller
	// patience is how long the proxy may take to read and acknowledge what it was sent. Nothing more is sent meanwhile, so
	// one that doesn't read costs no memory, and after this time its stream.
	patience time.Duration
	listener *listener  // is woken when there may be something to push
	ended    chan error // has an element when the stream has to end

	lock          sync.Mutex // guards what follows; taken before the log's
	closed        bool
	heard         *time.Timer // its place in the gate of those who are heard
	logger        *slog.Logger
	shown         *shown                    // nil before the first request
	view          *view                     // of a waypoint; nil for a node's proxy, which sees everything but L7 resources
	subscriptions [len(order)]*subscription // nil for what isn't asked for
	outstanding   []receipt                 // of what isn't acknowledged yet
	sending       bool
	nonces        uint64
	began         time.Time   // when the first request came
	rested        bool        // before the last round
	resting       bool        // before the next
	round         time.Time   // when the last round began
	bytes         int         // of it
	over          time.Time   // when the last round was over
	changed       time.Time   // when the oldest change of this round was made; zero if it has none
	alarm         *time.Timer // looks whether the proxy keeps up
	armed         bool        // for a round, of this one or before
}

// run serves the proxy until it goes, or has to.
func (s *stream) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.lock.Lock()
	s.alarm = time.AfterFunc(greeting, s.expire)
	s.lock.Unlock()
	s.log.listen(s.listener)
	defer s.close()
	s.server.group.Go(func() { s.receive(ctx) })
	s.server.group.Go(s.push)
	select {
	case <-ctx.Done():
		if !s.greeted() {
			return status.FromContextError(ctx.Err()).Err()
		}
		return nil
	case err := <-s.ended:
		return err
	}
}

// end ends the stream, unless that was done already.
func (s *stream) end(err error) {
	select {
	case s.ended <- err:
	default:
	}
}

func (s *stream) greeted() bool {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.shown != nil
}

// awaitTurn lets a few proxies at a time tell what they have, since that of a hundred that come back at once would be in memory
// together, and an answer to one would wait behind what all of them still say. Nobody has a turn for long, who may be stuck.
func (s *stream) awaitTurn(ctx context.Context) {
	place := s.server.hearing.enter(ctx, queueing, turn)
	s.lock.Lock()
	defer s.lock.Unlock()
	s.heard = place
	if s.closed {
		s.leaveTurn()
		return
	}
	s.alarm.Reset(greeting)
}

// leaveTurn makes room for another.
func (s *stream) leaveTurn() {
	s.server.hearing.leave(s.heard)
	s.heard = nil
}

// receive takes requests in until the stream ends, which it does at the latest when its handler returns.
func (s *stream) receive(ctx context.Context) {
	s.awaitTurn(ctx)
	next := new(request)
	for {
		err := s.wire.RecvMsg(next)
		if err != nil && !s.greeted() {
			s.end(status.Error(codes.Canceled, "stream closed before its first request"))
			return
		}
		if err != nil {
			s.end(nil)
			return
		}
		if next.buffer != nil {
			s.server.metrics.received(next.buffer.Len())
		}
		err = s.request(next)
		next.free()
		if err != nil {
			s.end(err)
			return
		}
	}
}

// step is what push does next. Without any of these it waits until the listener is woken: by a change, by a request that asks for
// something or makes way for it, or when the stream isn't open any more.
type step struct {
	responses []*response   // are sent
	wait      time.Duration // at most, until there is something to send
	end       bool
}

// push sends rounds until the stream is closed. It blocks where the proxy doesn't read, until the handler gives up and returns.
func (s *stream) push() {
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	for {
		next := s.next()
		switch {
		case next.end:
			return
		case len(next.responses) > 0:
			if err := s.send(next.responses); err != nil {
				s.end(err)
				return
			}
			s.sent()
		case next.wait > 0:
			wake.Reset(next.wait)
			select {
			case <-s.listener.kick:
			case <-wake.C:
			}
		default:
			<-s.listener.kick
		}
	}
}

func (s *stream) send(round []*response) error {
	began := time.Now()
	last := began
	for _, response := range round {
		of := s.server.metrics.byType[response.typeURL]
		of.pushes.Inc()
		of.bytes.Observe(float64(response.size()))
		if err := s.wire.SendMsg(response); err != nil {
			return err
		}
		now := time.Now()
		of.time.Observe(now.Sub(began).Seconds())
		s.server.metrics.sending.Observe(now.Sub(last).Seconds())
		last = now
	}
	return nil
}

// next returns what is to be done.
func (s *stream) next() step {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.closed {
		return step{end: true}
	}
	for {
		// It is woken for what comes after it has looked.
		s.listener.wants.Store(true)
		due, owed := s.due(s.log.head.Load())
		if !due {
			return step{}
		}
		s.listener.wants.Store(false)
		var wait time.Duration
		switch {
		case !s.idle():
			return step{}
		case s.round.IsZero() && s.asked() < s.types():
			wait = time.Until(s.began.Add(gathering))
		case !owed: // answers to a request don't wait
			wait = time.Until(s.rest())
			s.resting = s.resting || wait > 0
		}
		if wait > 0 {
			return step{wait: wait}
		}
		if responses := s.begin(); len(responses) > 0 {
			return step{responses: responses}
		}
	}
}

// rest is until when the stream rests.
func (s *stream) rest() time.Time {
	if s.rested {
		return s.over.Add(window)
	}
	return s.round.Add(window)
}

// due tells whether there may be something to send now that the log is at head, and whether it is an answer.
func (s *stream) due(head uint64) (due, owed bool) {
	for _, subscribed := range s.subscriptions {
		if subscribed != nil {
			due = due || subscribed.due(head)
			owed = owed || subscribed.owed
		}
	}
	return due, owed
}

// asked is how many types the proxy has asked for.
func (s *stream) asked() (count int) {
	for _, subscribed := range s.subscriptions {
		if subscribed != nil {
			count++
		}
	}
	return count
}

// idle tells whether the last round is over.
func (s *stream) idle() bool { return !s.sending && len(s.outstanding) == 0 }

// types is how many the proxy may ask for.
func (s *stream) types() int {
	if s.view == nil {
		return len(order) - 1
	}
	return len(order)
}

// begin begins a round of what every subscription is owed: policies, then L7 resources, then addresses, then what else is no
// more. It may be empty, since what changed isn't what this proxy asked for.
func (s *stream) begin() []*response {
	s.leaveTurn() // if it didn't ask for all types
	var responses, farewells []*response
	var changed time.Time
	s.log.lock.Lock()
	head := s.log.head.Load()
	for i, typeURL := range order {
		subscribed := s.subscriptions[i]
		if subscribed == nil {
			continue
		}
		if made := subscribed.unsent(s.log); changed.IsZero() || !made.IsZero() && made.Before(changed) {
			changed = made
		}
		d, answer := subscribed.take(s.source(typeURL), head)
		if typeURL != Address && len(d.removed) > 0 && s.subscriptions[slices.Index(order[:], Address)] != nil {
			farewells = append(farewells, s.response(typeURL, delta{removed: d.removed}))
			answer, d.removed = len(d.resources) > 0, nil
		}
		if answer {
			responses = append(responses, s.response(typeURL, d))
		}
	}
	s.log.lock.Unlock()
	responses = append(responses, farewells...)
	if len(responses) == 0 {
		return nil
	}
	s.round, s.rested, s.resting = time.Now(), s.resting, false
	if !changed.IsZero() {
		s.server.metrics.queued.Observe(s.round.Sub(changed).Seconds())
	}
	s.changed, s.sending, s.bytes = changed, true, 0
	for _, response := range responses {
		s.outstanding = append(s.outstanding, response.receipt())
		s.bytes += response.size()
	}
	if !s.armed {
		s.alarm.Reset(s.allowance())
		s.armed = true
	}
	for _, response := range responses {
		s.shown.sent(response.typeURL, response.version, s.round)
	}
	return responses
}

// allowance is how long the proxy may take for the round.
func (s *stream) allowance() time.Duration {
	return s.patience * time.Duration(1+s.bytes/more)
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

// response makes a response of a delta. The log is locked.
func (s *stream) response(typeURL string, d delta) *response {
	s.nonces++
	return &response{
		version: strconv.FormatUint(s.log.head.Load(), 10), typeURL: typeURL, resources: d.resources, removed: d.removed,
		nonce: strconv.FormatUint(s.nonces, 10),
	}
}

// sent notes that a round was written.
func (s *stream) sent() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.sending = false
	s.settle()
}

// request takes in a subscription, an acknowledgement, or both. The first says what the proxy is.
func (s *stream) request(r *request) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.closed {
		return nil
	}
	if s.shown == nil {
		if err := s.greet(r); err != nil {
			return err
		}
	}
	if s.log.tables[r.TypeUrl] == nil {
		return status.Errorf(codes.InvalidArgument, "resources of type %q are not served here", r.TypeUrl)
	}
	if r.TypeUrl == L7 && s.view == nil {
		return status.Errorf(codes.PermissionDenied, "resources of type %q are for waypoints", r.TypeUrl)
	}
	if r.ResponseNonce != "" {
		s.acknowledge(r)
	}
	if err := s.subscribe(r); err != nil {
		return err
	}
	if due, _ := s.due(s.log.head.Load()); due && s.idle() {
		s.listener.wake()
	}
	return nil
}

// greet finds out what the proxy is, and what it gets to see.
func (s *stream) greet(first *request) error {
	waypoint, err := s.server.identify(first.Node, s.caller)
	if err != nil {
		log := s.logger.With("proxy", first.Node.GetId(), "node", s.caller.Node, "account", s.caller.Account())
		s.server.cfg.Complain(s.wire.Context(), log, "stream refused", err)
		return err
	}
	s.logger = s.logger.With("proxy", first.Node.Id, "node", s.caller.Node)
	s.shown = s.server.show(first.Node, s.caller)
	if waypoint != nil {
		s.view = s.log.openView(*waypoint)
	}
	s.began = time.Now()
	s.alarm.Stop()
	return nil
}

func (s *stream) subscribe(r *request) error {
	kind := slices.Index(order[:], r.TypeUrl)
	subscribed := s.subscriptions[kind]
	first := subscribed == nil
	if first {
		subscribed = &subscription{cursor: s.log.open()}
		if s.view == nil {
			subscribed.node = s.caller.Node
		}
		s.subscriptions[kind] = subscribed
		var err error
		if subscribed.held, err = s.log.held(r.TypeUrl, s.source(r.TypeUrl), r.known, subscribed.cursor); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if s.asked() == s.types() {
			s.leaveTurn() // what it has was the most of what it says
		}
	}
	if !subscribed.request(first, r) {
		return status.Errorf(codes.ResourceExhausted, "more than %d names subscribed to, %d bytes of them, or a name of more than %d: subscribe to *", maxNames, maxNameBytes, maxName)
	}
	return nil
}

// acknowledge notes that a response was read, or what was wrong with it. Answers to older responses are ignored.
func (s *stream) acknowledge(r *request) {
	i := slices.IndexFunc(s.outstanding, func(one receipt) bool { return one.nonce == r.ResponseNonce && one.typeURL == r.TypeUrl })
	if i < 0 {
		s.server.metrics.expiredNonces.Inc()
		return
	}
	answered := s.outstanding[i]
	s.outstanding = slices.Delete(s.outstanding, i, i+1)
	s.shown.acknowledged(answered, r.ErrorDetail, time.Now())
	if r.ErrorDetail != nil {
		// What it rejected isn't sent again before it changes.
		s.server.metrics.rejects.WithLabelValues(short(r.TypeUrl)).Inc()
		s.logger.Warn("proxy rejected resources", "type", short(r.TypeUrl), "err", r.ErrorDetail.Message, "resources", answered.names)
	}
	s.settle()
}

// settle notes, when a round is over, how long its oldest change took until the proxy had it.
func (s *stream) settle() {
	if !s.idle() {
		return
	}
	s.over = time.Now()
	if !s.changed.IsZero() {
		s.server.metrics.convergence.Observe(s.over.Sub(s.changed).Seconds())
		s.changed = time.Time{}
	}
}

// expire ends the stream of a proxy that doesn't keep up. It comes back when it can, with the versions that it has. A round
// that began after the alarm was set has the rest of its time: setting it for each would cost more than the round.
func (s *stream) expire() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.armed = false
	switch left := time.Until(s.round.Add(s.allowance())); {
	case s.closed:
	case s.shown == nil:
		s.end(status.Errorf(codes.DeadlineExceeded, "no request within %s", greeting))
	case s.idle():
	case left > 0:
		s.alarm.Reset(left)
		s.armed = true
	default:
		s.server.metrics.writeTimeouts.Inc()
		s.logger.Warn("proxy cut off: it doesn't read or acknowledge what it is sent", "after", s.allowance())
		s.end(status.Errorf(codes.Aborted, "a push was not acknowledged within %s", s.allowance()))
	}
}

// close gives the cursors and the view back.
func (s *stream) close() {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.closed = true
	s.log.unlisten(s.listener)
	s.listener.wake()
	s.alarm.Stop()
	s.leaveTurn()
	if s.shown != nil {
		s.server.hide(s.shown)
	}
	for _, subscribed := range s.subscriptions {
		if subscribed != nil {
			s.log.close(subscribed.cursor)
		}
	}
	if s.view != nil {
		s.log.closeView(s.view)
	}
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
