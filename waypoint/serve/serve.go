// Package serve is what a waypoint does with a connection that has come through a tunnel: it finds out what it is for, and passes it on.
//
//  1. find      a service's port or a workload that is bound to this waypoint      arrival.Find
//  2. choose    an endpoint                                                        upstream.Choice
//  3. connect   to it, or to another if that fails                                 opaque.go
//  4. accept    the client's CONNECT is answered, only now
//  5. join      bytes both ways, once it is known what they are                     silent.go
//
// All of it happens on the worker that has accepted the client's tunnel, where nothing waits.
package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/arrival"
	"github.com/tulle-mesh/tulle/waypoint/downstream"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/table"
	"github.com/tulle-mesh/tulle/waypoint/upstream"
)

// What a CONNECT is answered. Peers act on the exact numbers.
const (
	statusBadRequest  = 400 // it isn't for this waypoint
	statusDenied      = 401 // a policy stands against it
	statusUnavailable = 503 // it can't be passed on
)

var (
	errUnknownSelf = errors.New("the control plane has not named this waypoint yet")
	errNoRule      = errors.New("the service's routes lead nowhere for this connection")
)

// Config is what the connections of one worker need. All fields but Proxies and XFCC are required.
type Config struct {
	Worker  *worker.Worker
	Table   func() *state.Table
	Self    func(*state.Table) *state.Workload // the waypoint; nil if the table hasn't it
	Dialer  upstream.Dialer
	Open    *balance.Open // of the whole program
	Metrics *telemetry.Metrics
	Access  *telemetry.AccessLog
	Rules   func() *table.Table
	Log     *slog.Logger
	MaxAge  time.Duration // of a client's connection, until it has to come again; 0 means never
	Proxies int           // that are trusted to tell in X-Forwarded-For whom they were asked by
	XFCC    bool          // servers are told who their client is, in X-Forwarded-Client-Cert
}

// Handler takes the connections of one worker.
type Handler struct {
	cfg     Config
	servers *upstream.Servers
	known   upstream.Known
	usages  map[route.Destination]*usage
	checker jwt.Checker
	clients map[drainer]struct{}
	opaque  map[*opaque]struct{}
	silent  map[*silent]struct{}
	mirrors int // copies under way

	draining bool
}

// New makes a handler.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg, usages: map[route.Destination]*usage{}, clients: map[drainer]struct{}{}, opaque: map[*opaque]struct{}{}, silent: map[*silent]struct{}{}}
	h.servers = upstream.NewServers(&h.cfg.Dialer)
	h.known = upstream.Known{Open: cfg.Open, Health: balance.NewHealth(cfg.Worker.Now)}
	return h
}

// Handle answers a CONNECT, at once or later.
func (h *Handler) Handle(in *hbone.Incoming) {
	c := &connection{handler: h, in: in, start: h.cfg.Worker.Now()}
	c.find()
}

// find is step 1. A connection that begins anew comes by it again: what it is for may be another now.
func (c *connection) find() {
	c.endpoint, c.silent, c.encrypted, c.serverName = upstream.Endpoint{}, false, false, ""
	c.table = c.handler.cfg.Table()
	self := c.handler.cfg.Self(c.table)
	if self == nil {
		c.refuse(fmt.Errorf("%s: %w", c.in.Request.Authority, errUnknownSelf))
		return
	}
	c.self = self
	var err error
	if c.to, err = arrival.Find(c.table, c.self, c.in.Local.Addr(), c.in.Request.Authority); err != nil {
		c.refuse(err)
		return
	}
	c.choose()
}

// choose is step 2: what the port's routes are about, else what clients speak there.
func (c *connection) choose() {
	c.asked, c.policyFacts = asked{c.service(), c.to.Port}, c.facts("")
	rules := c.handler.rules(c.handler.cfg.Rules(), c.asked, c.in.Peer.Namespace())
	port := portOf(rules.Routes, c.to.Protocol)
	switch {
	case port != downstream.TCP:
		c.listen(port, rules.Routes)
	case rules.Routes != nil:
		c.byRule(rules.Routes.Connection(""))
	default:
		c.passOn()
	}
}

// rules are what holds for connections to a port. A pod that was dialled by its own address has the waypoint's policies, and no routes, which are
// services'.
func (h *Handler) rules(t *table.Table, a asked, namespace string) table.Rules {
	rules := t.Lookup(a.service, a.port, namespace)
	if a.service == "" {
		rules.Routes = nil
	}
	return rules
}

// service is "namespace/hostname", or "".
func (c *connection) service() string {
	if c.to.Service == nil {
		return ""
	}
	return c.to.Service.Key().String()
}

// destination is the port of a service where it goes, which a route may have chosen.
func (c *connection) destination() route.Destination {
	return route.Destination{Service: c.service(), Port: c.to.Port}
}

// byRule passes a connection on as a route says.
func (c *connection) byRule(rule *route.Rule) {
	if rule == nil || rule.Invalid != "" {
		c.refuse(errNoRule)
		return
	}
	backend := rule.Backend(rand.Uint64())
	if backend == nil || backend.Invalid != "" {
		c.refuse(errNoRule)
		return
	}
	namespace, host, _ := strings.Cut(backend.Service, "/")
	service := c.table.Service(namespace, host)
	if service == nil {
		c.refuse(errNoRule)
		return
	}
	c.to.Service, c.to.Port, c.to.Workload = service, backend.Port, nil
	c.passOn()
}

// Failed counts tunnels that didn't come about: bad handshakes, protocol errors.
func (h *Handler) Failed(f hbone.Failure) {
	flag := telemetry.FlagTLS
	switch {
	case errors.As(f.Err, new(*mtls.RevokedError)):
		flag = telemetry.FlagRevoked
	case f.Stage == hbone.StageIdentity:
		flag = telemetry.FlagIdentity
	case f.Stage == hbone.StageHTTP2:
		flag = telemetry.FlagHTTP2
	}
	h.cfg.Metrics.Refuse(telemetry.Connection{Reporter: telemetry.Waypoint, Src: f.Remote, Dst: f.Local}, flag, f.Err)
}

// statusOf tells what isn't for this waypoint, and a refusal by policy, from what is broken.
func statusOf(err error) int {
	switch {
	case errors.Is(err, arrival.ErrStranger):
		return statusBadRequest
	case isDenied(err):
		return statusDenied
	}
	return statusUnavailable
}

// origin is who dialled: the tunnel's peer, with the port that its proxy tells.
func (c *connection) origin() netip.AddrPort {
	if told := c.in.Request.Forwarded.For; told.Addr() == c.in.Remote.Addr() {
		return told
	}
	return c.in.Remote
}

// record says for log and metrics what is known of a connection.
func (c *connection) record() telemetry.Connection {
	r := telemetry.Connection{
		Reporter: telemetry.Waypoint, MTLS: true, Src: c.origin(), Dst: c.in.Local, HBONEDst: c.in.Request.Authority.String(),
		Source:      describe.Client(c.table.WorkloadAt(network(c.self), c.in.Remote.Addr()), c.in.Request.Baggage, c.in.Peer),
		Destination: describe.Peer(c.endpoint.Workload), Trace: c.in.Request.Trace, Start: c.start,
	}
	r.Source.Namespace = c.in.Peer.Namespace() // what is proven goes before what is told
	if svc := c.to.Service; svc != nil {
		r.Service, r.ServiceNamespace, r.ServiceName = svc.Hostname, svc.Namespace, svc.Name
	}
	if c.endpoint.Addr.IsValid() {
		r.Dst = c.endpoint.Dialled()
	}
	return r
}

func network(self *state.Workload) string {
	if self == nil {
		return ""
	}
	return self.Network
}
