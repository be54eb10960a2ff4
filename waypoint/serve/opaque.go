package serve

import (
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/waypoint/arrival"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/downstream"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
	"github.com/tulle-mesh/tulle/waypoint/secure"
	"github.com/tulle-mesh/tulle/waypoint/upstream"
)

const (
	// connectTimeout bounds everything until the client is answered; its own proxy waits as long.
	connectTimeout = 25 * time.Second
	// silenceTimeout is how long an endpoint that has said nothing is waited for while there may be another one.
	silenceTimeout = 1500 * time.Millisecond
)

var (
	errGone    = errors.New("the client gave up before it was answered")
	errTooSlow = errors.New("connecting took too long")
)

// connection is one on its way through the steps.
type connection struct {
	handler  *Handler
	in       *hbone.Incoming
	table    *state.Table
	self     *state.Workload     // the waypoint
	to       arrival.Destination // what it is for; then where it goes, which a route may have changed
	choice   upstream.Choice
	endpoint upstream.Endpoint
	start    time.Time

	dialling       *upstream.Dialling // nil when none is under way
	timer, silence loop.Timer
	client         *pipe.Pipe // once it is accepted

	asked       asked             // what it was for, before a route changed that
	silent      bool              // the client has said nothing yet, and may speak anything
	encrypted   bool              // the client itself speaks TLS
	serverName  string            // that it asks for then
	tls         *secure.Policy    // nil if the endpoint isn't spoken to by TLS
	policyFacts *authz.Connection // of an opaque one
	ended       bool
}

// asked is a port of a service.
type asked struct {
	service string // "namespace/hostname", or ""
	port    uint16
}

// passOn is steps 2 and following, for bytes of whatever kind.
func (c *connection) passOn() {
	w := c.handler.cfg.Worker
	c.timer.Run = func() { c.refuse(errTooSlow) }
	c.silence.Run = c.impatient
	w.After(&c.timer, connectTimeout)
	c.in.OnGone(func() { c.refuse(errGone) })
	if err := c.handler.admit(c.asked, c.destination(), c.policyFacts, c.in.Peer.Namespace()); err != nil {
		c.deny(err)
		return
	}
	if c.to.Service != nil {
		c.tls = c.handler.cfg.Rules().BackendTLS(c.service(), c.to.Port)
	}
	if c.tls != nil && c.tls.Invalid != "" {
		c.refuse(errors.New(c.tls.Invalid))
		return
	}
	if c.encrypted {
		c.tls = nil
	}
	c.choice = upstream.Choice{Service: c.to.Service, Workload: c.to.Workload, Port: c.to.Port, Dialled: c.to.Dialled}
	c.try(nil)
}

// try connects to the next endpoint; failed is what became of the one before.
func (c *connection) try(failed error) {
	cfg := c.handler.cfg
	endpoint, err := c.choice.Next(c.table, c.self, upstream.Known{Open: cfg.Open})
	if err != nil {
		if failed != nil {
			err = failed // which says more
		}
		c.refuse(err)
		return
	}
	c.endpoint = endpoint
	asked := upstream.Asked{Baggage: describe.Baggage(c.self), Client: c.origin(), Trace: c.in.Request.Trace, TLS: c.tls}
	if c.to.Service != nil {
		asked.Service = c.to.Service.Hostname
	}
	c.dialling = cfg.Dialer.Dial(&c.endpoint, asked, func(server *pipe.Pipe, _ string, err error) {
		c.dialling = nil
		if err != nil {
			c.failed(err)
			return
		}
		c.connected(server)
	})
	cfg.Worker.After(&c.silence, silenceTimeout)
}

// failed goes elsewhere, unless it would be the same there.
func (c *connection) failed(err error) {
	cfg := c.handler.cfg
	cfg.Worker.Stop(&c.silence)
	cfg.Open.Failed(c.endpoint.Workload, c.endpoint.Addr.Port())
	if !hbone.Elsewhere(err) {
		c.refuse(err)
		return
	}
	c.try(err)
}

// impatient leaves an endpoint of which nothing is heard, if there is another.
func (c *connection) impatient() {
	if c.dialling == nil || !c.dialling.Silent() {
		return
	}
	if !c.choice.More(c.table, c.self) {
		return
	}
	c.dialling.Cancel()
	c.dialling = nil
	c.failed(&loop.ConnectTimeout{After: silenceTimeout})
}

// connected is steps 4 and 5.
func (c *connection) connected(server *pipe.Pipe) {
	cfg := c.handler.cfg
	cfg.Worker.Stop(&c.timer)
	cfg.Worker.Stop(&c.silence)
	cfg.Open.Reached(c.endpoint.Workload, c.endpoint.Addr.Port())
	if !c.stands(server) {
		return
	}
	c.ended = true
	if c.client == nil {
		if err := c.accept(); err != nil {
			server.Reset()
			cfg.Metrics.Refuse(c.record(), telemetry.FlagConnect, err)
			return
		}
	}
	if c.silent {
		c.await(server)
	} else {
		c.join(server)
	}
}

// stands tells whether the rules are still for what a server was connected for. If not, the connection goes on without that, or nowhere.
func (c *connection) stands(server *pipe.Pipe) bool {
	err := c.handler.stands(c.handler.cfg.Rules(), c.opaque())
	if err != nil {
		c.leave(server, err)
	}
	return err == nil
}

// leave lets go of a server that isn't used yet. Where it is another one's turn now, or is spoken to otherwise, the connection begins anew: nothing of
// what came is taken.
func (c *connection) leave(server *pipe.Pipe, err error) {
	server.Reset()
	if isDenied(err) {
		c.deny(err)
	} else {
		c.find()
	}
}

// deny is for a connection that may not pass as it is. A client that has said nothing may have requests, which policies look at one by one. If they
// would allow none, it is told now: it may be one that waits for its server to speak.
func (c *connection) deny(err error) {
	if c.silent && c.handler.mayAsk(c.asked, c.policyFacts, c.in.Peer.Namespace()) {
		c.silent = false
		c.listen(downstream.HTTP, nil)
	} else {
		c.refuse(err)
	}
}

// opaque is what rules are asked with about the connection.
func (c *connection) opaque() *opaque {
	return &opaque{asked: c.asked, to: c.destination(), serverName: c.serverName, namespace: c.in.Peer.Namespace(), facts: c.policyFacts, encrypted: c.encrypted, tls: c.tls}
}

// join is step 5.
func (c *connection) join(server *pipe.Pipe) {
	cfg := c.handler.cfg
	metric, workload := cfg.Metrics.Open(c.record()), c.endpoint.Workload
	cfg.Open.Add(workload, 1)
	o := c.opaque()
	o.session = pipe.Join(server, c.client, func(r relay.Result) {
		delete(c.handler.opaque, o)
		cfg.Open.Add(workload, -1)
		flag := telemetry.FlagNone
		if isDenied(r.Err) {
			flag = telemetry.FlagDenied
		}
		metric.Close(flag, r.Err)
	})
	c.handler.opaque[o] = struct{}{}
	metric.Follow(o.session.Counts)
	c.table = nil // must not live as long as the connection
}

// accept answers the client's CONNECT.
func (c *connection) accept() error {
	stream, err := c.in.Accept(describe.Baggage(c.self))
	if err == nil {
		c.client = pipe.OverStream(c.handler.cfg.Worker.Loop, stream)
	}
	return err
}

// refuse ends a connection that isn't passed on.
func (c *connection) refuse(err error) {
	if c.ended {
		return
	}
	c.ended = true
	cfg := c.handler.cfg
	cfg.Worker.Stop(&c.timer)
	cfg.Worker.Stop(&c.silence)
	if c.dialling != nil {
		c.dialling.Cancel()
	}
	if c.client == nil {
		c.in.Refuse(statusOf(err))
	} else {
		c.client.Reset()
	}
	flag := describe.Flag(err)
	if isDenied(err) {
		flag = telemetry.FlagDenied
	}
	cfg.Metrics.Refuse(c.record(), flag, err)
}
