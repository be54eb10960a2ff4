package serve

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/trace"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/upstream"
)

const (
	// leastBackoff is the pause before the first further try if the route doesn't say; each next one is twice as long.
	leastBackoff = 25 * time.Millisecond
	mostBackoff  = 250 * time.Millisecond
)

// try is a request's way to one endpoint. To the connection there it is the client.
type try struct {
	request  *request
	endpoint upstream.Endpoint
	pending  *upstream.Dialling // a connection that isn't there yet; nil once it is
	server   exchange.Server    // nil until then
	begun    time.Time          // to connect, and then to ask
	clock    loop.Timer         // the try's time
	silence  loop.Timer
	consumed int  // bytes of the request's body
	reused   bool // the connection had had other requests: the server may have closed it meanwhile
	over     bool

	trace   trace.Context // zero if the try is no span
	started time.Time
	number  int // among the request's tries, from 1
	code    int // of the answer; 0 when there is none yet
}

// attempt is step 3.
func (r *request) attempt() {
	h := r.session.handler
	table := h.cfg.Table()
	self := h.cfg.Self(table)
	if self == nil {
		r.answer(503, flagNoEndpoint, textNoEndpoint, errUnknownSelf.Error())
		return
	}
	endpoint, err := r.choice.Next(table, self, h.known)
	if err != nil {
		r.answer(503, flagNoEndpoint, textNoEndpoint, err.Error())
		return
	}
	r.endpoint = endpoint
	r.tries++
	t := &try{request: r, endpoint: endpoint, begun: h.cfg.Worker.Now(), number: r.tries}
	t.started = t.begun
	t.traced()
	r.try = t
	h.cfg.Open.Add(endpoint.Workload, 1)
	if r.routed && r.hit.TryTimeout > 0 {
		t.clock.Run = t.late
		h.cfg.Worker.After(&t.clock, r.hit.TryTimeout)
	}
	asked := upstream.Asked{Baggage: describe.Baggage(self), Fresh: r.resent}
	if r.choice.Service != nil {
		asked.Service = r.choice.Service.Hostname
	}
	version := upstream.Version(r.choice.Service, r.choice.Port, r.clientVersion(), r.grpc)
	if r.tls != nil {
		asked.TLS, asked.Either = r.tls, upstream.Either(r.choice.Service, r.choice.Port, r.grpc, r.head.Upgrade != "")
	}
	if handler := h.servers.Take(&t.endpoint, version, &asked); handler != nil {
		t.reused = true
		t.begin(handler)
		t.pass()
		return
	}
	if r.usage.pending >= maxPending {
		r.try = nil
		t.finish(flagOverflow)
		r.answer(503, flagOverflow, textOverflow, "too many requests wait for connections to "+r.usage.to.Service)
		return
	}
	r.usage.pending++
	t.pending = h.servers.Dial(&t.endpoint, version, asked, t.connected)
	t.silence.Run = t.impatient
	h.cfg.Worker.After(&t.silence, silenceTimeout)
}

// clientVersion is what the client speaks. For another protocol, HTTP/1.1 is asked: a server of HTTP/2 may not know how to be.
func (r *request) clientVersion() exchange.Version {
	if r.head.Upgrade != "" {
		return exchange.HTTP11
	}
	return r.head.Version
}

// connected is told of the connection that wasn't there at once.
func (t *try) connected(handler exchange.Handler, err error) {
	t.pending = nil
	t.request.usage.pending--
	t.request.session.handler.cfg.Worker.Stop(&t.silence)
	if err != nil {
		t.request.session.handler.cfg.Open.Failed(t.endpoint.Workload, t.endpoint.Addr.Port())
		t.failed(err, true)
		return
	}
	t.begun = t.request.session.handler.cfg.Worker.Now() // to connect is seldom needed, and says little of how it answers
	t.begin(handler)
	t.pass()
}

// begin has the request sent.
func (t *try) begin(handler exchange.Handler) {
	head := *t.request.head
	if t.request.tls != nil {
		head.Scheme = "https"
	}
	if t.request.body.keep {
		head.Fields = slices.Clone(head.Fields) // another try needs them as they are
	}
	if t.trace.Sampled() {
		head.Fields = told(head.Fields, t.trace, t.request.trace.SpanID)
	}
	t.server = handler(&head, t)
}

// pass gives the server what there is of the body already.
func (t *try) pass() {
	b := &t.request.body
	if kept := b.bytes; len(kept) > 0 {
		b.trim()
		t.server.Data(kept)
	}
	if b.ended && !t.over {
		t.server.End(b.trailers)
	}
}

// impatient leaves an endpoint of which nothing is heard, if there is another.
func (t *try) impatient() {
	r, h := t.request, t.request.session.handler
	if t.pending == nil || !t.pending.Silent() || !r.choice.More(h.cfg.Table(), h.cfg.Self(h.cfg.Table())) {
		return
	}
	t.pending.Cancel()
	t.connected(nil, &loop.ConnectTimeout{After: silenceTimeout})
}

// late is the end of the try's time.
func (t *try) late() {
	r := t.request
	if r.answered {
		r.breakOff(errTimeout, flagTimeout)
		return
	}
	r.try = nil
	t.served(false)
	t.drop(errTimeout)
	if r.mayRetry(0, true) {
		r.retry()
		return
	}
	r.answer(504, flagTimeout, textTimeout, "the server took longer than the route allows")
}

// drop gives the try up.
func (t *try) drop(err error) {
	if t.over {
		return
	}
	switch err {
	case errTimeout:
		t.finish(flagTimeout)
	case errRetried:
		t.finish(telemetry.FlagNone)
	default:
		t.finish(flagClientGone)
	}
	if t.pending != nil {
		t.pending.Cancel()
		t.pending = nil
		t.request.usage.pending--
	} else if t.server != nil {
		t.server.Abort(err)
	}
}

// finish lets go of what the try holds; flag is Envoy's for how it ended.
func (t *try) finish(flag string) {
	h := t.request.session.handler
	t.over = true
	h.cfg.Worker.Stop(&t.clock)
	h.cfg.Worker.Stop(&t.silence)
	h.cfg.Open.Add(t.endpoint.Workload, -1)
	t.span(flag)
}

// served notes how the endpoint has served: it answered, or gave none in time.
func (t *try) served(well bool) {
	if t.endpoint.Service != nil {
		h := t.request.session.handler
		h.known.Health.Served(t.endpoint.Service, t.endpoint.Workload, t.endpoint.Addr.Port(), h.cfg.Worker.Now().Sub(t.begun), well)
	}
}

// wellDone tells whether an answer says that its server can serve: what is the request's own fault says nothing against it.
func wellDone(res *exchange.Response) bool {
	status, _ := exchange.Get(res.Fields, "grpc-status")
	return (res.Status < 500 || res.Status == 501) && status != "14" // UNAVAILABLE
}

// failed decides what becomes of a request whose try gave no answer. Unsent says that nothing of it reached the endpoint.
func (t *try) failed(err error, unsent bool) {
	r := t.request
	if none := new(exchange.Unsayable); errors.As(err, &none) { // by any server of the kind
		t.finish(telemetry.FlagNone)
		r.try = nil
		r.answer(none.Status, "", "", err.Error())
		return
	}
	refused := errors.As(err, new(*exchange.NotProcessed))
	unsent = unsent || refused
	lost := t.lost(err, unsent)
	if !refused && !(lost && t.reused) {
		t.served(false)
	}
	if unsent {
		t.finish(flagConnect)
	} else {
		t.finish(flagBroken)
	}
	r.try = nil
	if refused && !t.reused { // the connection's fault, not the endpoint's
		r.choice.Untried()
	}
	switch {
	case lost && r.body.again():
		// Its server may be about to go: then a new connection is one to nobody, so another server is better.
		h := r.session.handler
		r.resent = true
		r.choice.Again(h.cfg.Table(), h.cfg.Self(h.cfg.Table()))
		r.attempt()
	case unsent && hbone.Elsewhere(err) && r.body.again() && r.tries < upstream.MaxTries:
		r.attemptElsewhere(err)
	case r.mayRetry(0, true):
		r.retry()
	case unsent:
		r.answer(503, flagConnect, textConnect, err.Error())
	default:
		r.answer(503, flagBroken, textBroken, err.Error())
	}
}

// lost tells that the connection was closed by its server before, or while, the request came, which is no fault of the request's, so that it can
// be sent again, once: one that was kept has been closed for its age, and a server that goes closes new ones that it hasn't looked at yet. What
// may have been processed is only sent again if that makes no difference (RFC 9110 section 9.2.2).
func (t *try) lost(err error, unsent bool) bool {
	r, h := t.request, t.request.session.handler
	if r.resent || unsent && !t.reused {
		return false
	}
	if unsent {
		return true
	}
	switch r.head.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return errors.Is(err, exchange.ErrNoAnswer) && (t.reused || r.choice.More(h.cfg.Table(), h.cfg.Self(h.cfg.Table())))
	}
	return false
}

// attemptElsewhere tries another endpoint at once, if there is one.
func (r *request) attemptElsewhere(err error) {
	h := r.session.handler
	if !r.choice.More(h.cfg.Table(), h.cfg.Self(h.cfg.Table())) {
		r.answer(503, flagConnect, textConnect, err.Error())
		return
	}
	r.attempt()
}

// mayRetry asks the route, and the budget of the destination, whether a failure may be tried again: one without an answer, or of a status.
func (r *request) mayRetry(status int, broken bool) bool {
	if !r.routed || r.hit.Retry == nil || r.tries > r.hit.Retry.Attempts || !r.body.again() || r.answered {
		return false
	}
	if !broken && !slices.Contains(r.hit.Retry.Statuses, status) {
		return false
	}
	return r.retrying || r.usage.mayRetry()
}

// retry waits a while, and tries again, at another endpoint if there is one.
func (r *request) retry() {
	if !r.retrying {
		r.retrying = true
		r.usage.retrying++
	}
	wait := max(r.hit.Retry.Backoff, leastBackoff) << min(r.tries-1, 8)
	wait = min(wait, max(mostBackoff, r.hit.Retry.Backoff))
	r.pause.Run = r.again
	r.session.handler.cfg.Worker.After(&r.pause, wait+rand.N(wait/4+1)) // the route's is the least
}

// retried ends a request's being one that is tried again: its answer may last as long as it likes.
func (r *request) retried() {
	if r.retrying {
		r.retrying = false
		r.usage.retrying--
	}
}

// again is the end of the pause.
func (r *request) again() {
	cfg := r.session.handler.cfg
	if table := cfg.Table(); cfg.Self(table) != nil {
		r.choice.Again(table, cfg.Self(table))
	}
	r.attempt()
}

// Inform implements exchange.Client.
func (t *try) Inform(res *exchange.Response) {
	if !t.over {
		t.request.client.Inform(res)
	}
}

// Respond implements exchange.Client. It is step 4.
func (t *try) Respond(res *exchange.Response) {
	r := t.request
	if t.over {
		return
	}
	t.code = res.Status
	r.session.handler.cfg.Open.Reached(t.endpoint.Workload, t.endpoint.Addr.Port())
	t.served(wellDone(res))
	if r.mayRetry(res.Status, false) {
		r.try = nil
		t.drop(errRetried)
		r.retry()
		return
	}
	if r.routed {
		r.hit.Answered(r.backend, res)
	}
	r.answered, r.code = true, res.Status
	r.retried()
	if r.grpc {
		r.hears(res.Fields)
	}
	if res.Upgrade != "" { // what it becomes may live for ever
		r.session.handler.cfg.Worker.Stop(&r.clock)
		r.session.handler.cfg.Worker.Stop(&t.clock)
	}
	r.body.keep = len(r.body.mirrors) > 0
	r.body.trim()
	r.client.Respond(res)
}

// hears takes note of a call's status, which comes in a head or in trailers.
func (r *request) hears(fields []exchange.Field) {
	if status, ok := exchange.Get(fields, "grpc-status"); ok {
		r.grpcStatus = ownStatus(status)
	}
}

// Data implements exchange.Client.
func (t *try) Data(p []byte) {
	if !t.over {
		r := t.request
		r.sent += uint64(len(p))
		if r.grpc {
			r.told.add(p)
		}
		r.client.Data(p)
	}
}

// End implements exchange.Client.
func (t *try) End(trailers []exchange.Field) {
	if t.over {
		return
	}
	r := t.request
	if r.grpc {
		r.hears(trailers)
	}
	t.finish(telemetry.FlagNone)
	r.try = nil
	r.end()
	r.client.End(trailers)
}

// Abort implements exchange.Client.
func (t *try) Abort(err error) {
	r := t.request
	switch {
	case t.over:
	case r.answered:
		t.finish(flagBroken)
		r.try = nil
		r.breakOff(err, flagBroken)
	default:
		t.failed(err, false)
	}
}

// Consumed implements exchange.Client. What an earlier try had consumed isn't told again.
func (t *try) Consumed(n int) {
	b := &t.request.body
	t.consumed += n
	if more := t.consumed - b.told; more > 0 && !t.over {
		b.told = t.consumed
		if !b.ended {
			t.request.client.Consumed(more)
		}
	}
}
