package serve

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/trace"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/secure"
	"github.com/tulle-mesh/tulle/waypoint/target"
	"github.com/tulle-mesh/tulle/waypoint/upstream"
)

// request is one on its way. To the client's codec it is the server; its tries (try.go) are the clients of servers.
//
// The steps of a request, in order; each is one function:
//
//  1. decide     the path is put in order, tokens are checked, policies asked                         request.go
//  2. choose     a rule, which may answer itself, a backend by weight, its service                    request.go
//  3. try        an endpoint, a connection, the request on it; again elsewhere if need be             try.go
//  4. respond    the answer's head is changed, and passed on                                          try.go
//  5. account    counted, logged                                                                      account.go
type request struct {
	session *session
	client  exchange.Client
	head    *exchange.Request // as it goes on
	start   time.Time

	hit      route.Hit
	routed   bool // there is a hit
	backend  *route.Backend
	consumer *consumer // nil if the routes are the service's own
	usage    *usage    // of the destination
	choice   upstream.Choice
	tls      *secure.Policy // nil if the destination isn't spoken to by TLS

	body     body
	try      *try // under way, or nil
	tries    int
	resent   bool       // it was lost with its connection, and sent again
	retrying bool       // it is counted as one that is tried again
	clock    loop.Timer // the request's time
	pause    loop.Timer // until the next try
	task     loop.Task  // gives reply
	reply    *reply

	trace      trace.Context // zero without spans
	parent     [8]byte       // the client's span
	grpc       bool
	asked      messages // of gRPC that the client has sent
	told       messages // and the server
	code       int      // of the answer; 0 when there is none yet
	grpcStatus string
	flags      string
	details    string // why it was answered so, for the log
	policy     string // that refused it
	endpoint   upstream.Endpoint
	sent       uint64 // bytes of the answer's body
	answered   bool   // the head has been passed on
	ended      bool   // nothing may be said any more
}

// decide is step 1.
func (r *request) decide() {
	contentType, _ := exchange.Get(r.head.Fields, "content-type")
	r.grpc = isGRPC(contentType)
	path, err := target.Normalize(r.head.Path)
	if err != nil {
		r.answer(400, "", "", err.Error())
		return
	}
	r.head.Path = path
	r.traced()
	r.check()
}

// isGRPC is as gRPC has it, over HTTP/2. gRPC-Web, whose type begins so too, is for HTTP of any version.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || strings.IndexByte("+; ", rest[0]) >= 0)
}

// check has the request's tokens checked, and then asks the policies.
func (r *request) check() {
	h, rules := r.session.handler, r.session.now()
	facts := authz.Facts{Connection: r.session.facts, Remote: r.remote(), Request: r.head}
	if rules.Issuers != nil {
		result := h.checker.Check(rules.Issuers, r.head, h.cfg.Worker.Now(), func() {
			_ = h.cfg.Worker.Post(r.checkAgain) // fails only when the program has ended
		})
		switch {
		case result.Waiting:
			return
		case result.Refusal != nil:
			r.unproven(result.Refusal)
			return
		}
		facts.Token = result.Token
	}
	verdict := authz.Evaluate(rules.Policies, facts)
	h.told(&verdict, r.session)
	if !verdict.Allowed {
		r.policy = verdict.Policy
		r.answer(403, "", textDenied, verdict.Reason)
		return
	}
	if rules.Consumers {
		r.consumer = newConsumer(&rules, &facts)
	}
	r.choose(rules.Routes)
}

func (r *request) checkAgain() {
	if !r.ended {
		r.check()
	}
}

// choose is step 2, by the routes of the port, if there are any.
func (r *request) choose(routes *route.Routes) {
	r.forwarded()
	if routes == nil {
		r.forward(nil)
		return
	}
	hit, ok := routes.Match(r.head, r.session.to.Port)
	if !ok {
		r.answer(404, flagNoRoute, "", "no rule of the service's routes matches")
		return
	}
	r.hit, r.routed = hit, true
	if r.consumer != nil {
		r.consumer.vouch(r.head)
	}
	if own := hit.Answer(r.head); own != nil {
		r.answerWith(own, "answered by "+hit.Route)
		return
	}
	if hit.Invalid != "" {
		r.answer(500, "", "", hit.Invalid)
		return
	}
	if hit.RequestTimeout > 0 {
		r.clock.Run = r.late
		r.session.handler.cfg.Worker.After(&r.clock, hit.RequestTimeout)
	}
	hit.Forward(r.head)
	r.mirrors(hit.Mirrors)
	r.backend = hit.Backend(rand.Uint64())
	switch {
	case r.backend == nil:
		r.answer(500, "", "", "no backend of "+hit.Route+" has a weight")
	case r.backend.Invalid != "":
		r.answer(500, "", "", r.backend.Invalid)
	default:
		hit.ForwardTo(r.backend, r.head)
		r.mirrors(r.backend.Mirrors)
		if verdict := r.changed(r.head, r.backend.Destination); !verdict.Allowed {
			r.policy = verdict.Policy
			r.answer(403, "", textDenied, "as "+hit.Route+" changes it: "+verdict.Reason)
			return
		}
		r.forward(&r.backend.Destination)
	}
}

// forward sends the request to a destination, or else where its connection was for, which may be another now than when that came.
func (r *request) forward(to *route.Destination) {
	h, d := r.session.handler, r.session.to
	table := h.cfg.Table()
	if to == nil {
		to = &route.Destination{Service: r.session.service, Port: d.Port}
	}
	r.choice = upstream.Choice{Port: to.Port, Dialled: d.Dialled}
	if to.Service == "" {
		to.Service = d.Workload.UID
		r.choice.Workload = table.Workload(to.Service)
	} else {
		namespace, host, _ := strings.Cut(to.Service, "/")
		r.choice.Service = table.Service(namespace, host)
	}
	if r.choice.Service == nil && r.choice.Workload == nil {
		r.answer(503, flagNoEndpoint, textNoEndpoint, to.Service+" isn't known")
		return
	}
	if r.choice.Service != nil {
		r.tls = h.cfg.Rules().BackendTLS(to.Service, to.Port)
	}
	if r.tls != nil && r.tls.Invalid != "" {
		r.answer(500, flagConnect, "", r.tls.Invalid)
		return
	}
	if r.usage = h.enter(*to); r.usage == nil {
		r.answer(503, flagOverflow, textOverflow, "too many requests to "+to.Service+" are under way")
		return
	}
	r.body.keep = r.routed && (r.hit.Retry != nil || len(r.body.mirrors) > 0)
	r.attempt()
}

// forwarded adds what servers are told of the way, those that get copies too. A route may change it.
func (r *request) forwarded() {
	client := r.session.address
	if before, ok := exchange.Joined(r.head.Fields, "x-forwarded-for"); ok {
		client = before + "," + client
	}
	r.head.Fields = exchange.Set(r.head.Fields, "x-forwarded-for", client)
	r.head.Fields = exchange.Remove(r.head.Fields, "x-forwarded-client-cert") // in which a client could say that it is somebody else
	if r.session.xfcc != "" {
		r.head.Fields = append(r.head.Fields, exchange.Field{Name: "x-forwarded-client-cert", Value: r.session.xfcc})
	}
	if _, ok := exchange.Get(r.head.Fields, "x-forwarded-proto"); !ok {
		r.head.Fields = append(r.head.Fields, exchange.Field{Name: "x-forwarded-proto", Value: "http"})
	}
	if _, ok := exchange.Get(r.head.Fields, "x-request-id"); !ok {
		r.head.Fields = append(r.head.Fields, exchange.Field{Name: "x-request-id", Value: newID()})
	}
}

// Data implements exchange.Server.
func (r *request) Data(p []byte) {
	if r.ended || r.reply != nil {
		return
	}
	r.body.add(p)
	if r.grpc {
		r.asked.add(p)
	}
	if t := r.try; t != nil && t.server != nil {
		r.body.trim()
		t.server.Data(p)
	}
}

// End implements exchange.Server.
func (r *request) End(trailers []exchange.Field) {
	if r.ended || r.reply != nil {
		return
	}
	trailers = r.session.trailersOf(trailers)
	r.body.ended, r.body.trailers = true, trailers
	r.mirror()
	if t := r.try; t != nil && t.server != nil {
		t.server.End(trailers)
	}
}

// Consumed implements exchange.Server.
func (r *request) Consumed(n int) {
	if t := r.try; t != nil && t.server != nil {
		t.server.Consumed(n)
	}
}

// Abort implements exchange.Server.
func (r *request) Abort(err error) {
	if r.ended {
		return
	}
	r.flags, r.details = flagClientGone, err.Error()
	if none := new(h1.Malformed); errors.As(err, &none) { // its body isn't what its head has promised
		r.flags = flagProtocol
		if !r.answered {
			r.code = none.Status // of the codec's answer
		}
	}
	r.leave(err)
	r.end()
}

// late is the end of the request's time.
func (r *request) late() {
	if r.answered {
		r.breakOff(errTimeout, flagTimeout)
		return
	}
	if r.try != nil {
		r.try.served(false)
	}
	r.leave(errTimeout)
	r.answer(504, flagTimeout, textTimeout, "the request took longer than the route allows")
}

// leave gives the try up that is under way.
func (r *request) leave(err error) {
	if t := r.try; t != nil {
		r.try = nil
		t.drop(err)
	}
	r.session.handler.cfg.Worker.Stop(&r.pause)
}

// breakOff ends an exchange whose answer can't be completed.
func (r *request) breakOff(err error, flag string) {
	r.flags, r.details = flag, err.Error()
	r.leave(err)
	r.end()
	r.client.Abort(err)
}
