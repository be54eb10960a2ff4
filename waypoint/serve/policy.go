package serve

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/secure"
	"github.com/tulle-mesh/tulle/waypoint/table"
)

var (
	errRerouted = errors.New("a route leads it elsewhere now; the client has to come again")
	errRespoken = errors.New("another BackendTLSPolicy holds for its endpoint now; the client has to come again")
)

// deniedError says which policy stands against a connection that isn't looked into.
type deniedError struct{ reason string }

func (e *deniedError) Error() string { return "refused by policy: " + e.reason }

// facts are what policies know of the connection; the server name is "" where none is known.
func (c *connection) facts(serverName string) *authz.Connection {
	return authz.NewConnection(c.in.Peer, c.in.Remote.Addr(), netip.AddrPortFrom(c.to.Dialled, c.to.Port), serverName)
}

// admit asks the policies about a connection that isn't looked into; and, if a route of its clients' namespace leads it to another port of the service,
// about that one too.
func (h *Handler) admit(a asked, to route.Destination, facts *authz.Connection, namespace string) error {
	rules := h.cfg.Rules().Lookup(a.service, a.port, namespace)
	verdict := authz.Evaluate(rules.Policies, authz.Facts{Connection: facts, Remote: facts.Source})
	if verdict.Allowed && rules.Consumers && to.Service == a.service && to.Port != a.port {
		verdict = authz.Evaluate(rules.Policies, authz.Facts{Connection: facts.At(to.Port), Remote: facts.Source})
	}
	if !verdict.Allowed {
		return &deniedError{verdict.Reason}
	}
	return nil
}

// mayAsk tells whether the policies may allow a request on a connection.
func (h *Handler) mayAsk(a asked, facts *authz.Connection, namespace string) bool {
	return authz.MayAllow(h.cfg.Rules().Lookup(a.service, a.port, namespace).Policies, authz.Facts{Connection: facts, Remote: facts.Source})
}

// opaque is an open connection that isn't looked into. It is asked about again when the rules change.
type opaque struct {
	asked
	to         route.Destination // where a route led it, if one did
	serverName string            // that it began with
	namespace  string
	facts      *authz.Connection
	session    *relay.Session
	encrypted  bool           // by the client
	tls        *secure.Policy // by which its endpoint is spoken to, or nil
}

// Recheck asks the policies and routes about all such connections again, and cuts those that aren't allowed any more, would go elsewhere, or by another TLS:
// their clients come again.
func (h *Handler) Recheck() {
	t := h.cfg.Rules()
	for o := range h.opaque {
		if err := h.stands(t, o); err != nil {
			o.session.Cut(err)
		}
	}
	for s := range h.silent {
		s.recheck(t)
	}
}

// stands tells why a connection can't go on as it is, or nil.
func (h *Handler) stands(t *table.Table, o *opaque) error {
	if err := h.admit(o.asked, o.to, o.facts, o.namespace); err != nil {
		return err
	}
	if !h.leads(t, o) {
		return errRerouted
	}
	if !o.speaks(t) {
		return errRespoken
	}
	return nil
}

// speaks tells whether the endpoint would still be spoken to as it is.
func (o *opaque) speaks(t *table.Table) bool {
	if o.to.Service == "" {
		return true
	}
	now := t.BackendTLS(o.to.Service, o.to.Port)
	if o.encrypted {
		return now == nil || now.Invalid == ""
	}
	return now == o.tls
}

// leads tells whether the routes would still lead a connection where it is.
func (h *Handler) leads(t *table.Table, o *opaque) bool {
	routes := h.rules(t, o.asked, o.namespace).Routes
	switch {
	case routes == nil:
		return o.to == route.Destination{Service: o.service, Port: o.port}
	case forRequests(routes):
		return false
	}
	return routes.Connection(o.serverName).LeadsTo(o.to)
}

// forRequests tells whether the port is for what speaks HTTP.
func forRequests(routes *route.Routes) bool {
	return routes != nil && routes.Protocol != l7.Route_TCP && routes.Protocol != l7.Route_TLS
}

func isDenied(err error) bool { return errors.As(err, new(*deniedError)) }

// told logs the policies that match and only tell.
func (h *Handler) told(v *authz.Verdict, s *session) {
	if len(v.Audited) > 0 || len(v.DryRun) > 0 {
		h.cfg.Log.Info("policies that only tell match", "src", s.client, "service", s.service,
			"audited", strings.Join(v.Audited, ","), "dry_run", strings.Join(v.DryRun, ","))
	}
}
