package serve

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/waypoint/arrival"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/table"
)

// session is what the requests of one connection have in common.
type session struct {
	handler   *Handler
	to        arrival.Destination
	service   string // "namespace/hostname" of to, or ""
	client    netip.AddrPort
	address   string // of client, without its port
	xfcc      string // what servers are told of who the client is; "" means nothing
	namespace string // the client's
	source    telemetry.Peer
	facts     *authz.Connection

	rules    table.Rules
	of       *table.Table // that the rules are from
	counters []counter    // of requests so far, the latest last
}

// counter is where requests of a kind are counted.
type counter struct {
	kind  telemetry.RequestKind
	count *telemetry.Requests
}

// maxCounters is how many kinds a session remembers.
const maxCounters = 8

func (c *connection) session() *session {
	known := c.table.WorkloadAt(network(c.self), c.in.Remote.Addr())
	s := &session{handler: c.handler, to: c.to, client: c.origin(), namespace: c.in.Peer.Namespace(), source: describe.Client(known, c.in.Request.Baggage, c.in.Peer)}
	s.address = s.client.Addr().String()
	s.facts = c.facts("")
	if s.handler.cfg.XFCC {
		// As Envoy writes it. The parts of an identity have no characters that would need quotes.
		s.xfcc = "By=" + c.self.Identity.String() + ";URI=" + c.in.Peer.String()
	}
	s.source.Namespace = s.namespace // what is proven goes before what is told
	if c.to.Service != nil {
		s.service = c.to.Service.Key().String()
	}
	return s
}

// now returns the rules of the moment.
func (s *session) now() table.Rules {
	if t := s.handler.cfg.Rules(); t != s.of {
		s.of, s.rules = t, s.handler.rules(t, asked{s.service, s.to.Port}, s.namespace)
	}
	return s.rules
}

// handle implements exchange.Handler.
func (s *session) handle(head *exchange.Request, client exchange.Client) exchange.Server {
	r := &request{session: s, client: client, head: head, start: s.handler.cfg.Worker.Now(), flags: telemetry.FlagNone}
	r.decide()
	return r
}

// refused counts and logs what was no request, which the codec has answered.
func (s *session) refused(status int, err error) {
	h := s.handler
	kind := telemetry.RequestKind{Source: s.source, MTLS: true, Code: status, Flags: flagProtocol}
	if svc := s.to.Service; svc != nil {
		kind.Service, kind.ServiceNamespace, kind.ServiceName = svc.Hostname, svc.Namespace, svc.Name
	}
	s.count(&kind).Ended(0, 0, 0)
	h.cfg.Access.Request(&telemetry.RequestLine{
		Kind: &kind, Start: h.cfg.Worker.Now(), Client: s.client, Fields: func(string) string { return "" }, Details: err.Error(),
	})
}

// count finds where requests of a kind are counted.
func (s *session) count(kind *telemetry.RequestKind) *telemetry.Requests {
	for i := len(s.counters) - 1; i >= 0; i-- {
		if s.counters[i].kind == *kind {
			return s.counters[i].count
		}
	}
	if len(s.counters) == maxCounters {
		s.counters[0].count.Release()
		s.counters = append(s.counters[:0], s.counters[1:]...)
	}
	s.counters = append(s.counters, counter{*kind, s.handler.cfg.Metrics.Requests(kind)})
	return s.counters[len(s.counters)-1].count
}

// close lets go of what the session holds.
func (s *session) close() {
	for _, c := range s.counters {
		c.count.Release()
	}
	s.counters = nil
}
