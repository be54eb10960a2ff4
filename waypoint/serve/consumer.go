package serve

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/claims"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/table"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// consumer is what a request needs that goes by routes of its client's namespace. Who writes those has no say in what the service lets in: its policies
// are asked again about what a route makes of the request, and what the waypoint vouches for no route changes.
type consumer struct {
	policies []*authz.Set
	remote   netip.Addr
	token    *claims.Claims
	names    []string         // of the headers that the waypoint vouches for
	vouched  []exchange.Field // as they are without a route
}

func newConsumer(rules *table.Rules, facts *authz.Facts) *consumer {
	return &consumer{policies: rules.Policies, remote: facts.Remote, token: facts.Token, names: rules.Issuers.Outputs()}
}

// vouch notes what servers are told.
func (c *consumer) vouch(head *exchange.Request, xfcc bool) {
	c.names = append(c.names, "x-forwarded-for")
	if xfcc {
		c.names = append(c.names, "x-forwarded-client-cert")
	}
	for _, f := range head.Fields {
		if slices.Contains(c.names, f.Name) {
			c.vouched = append(c.vouched, f)
		}
	}
}

// allows asks about a head that a route has changed, for a port of the service, and puts right what servers are told.
func (c *consumer) allows(head *exchange.Request, dialled *authz.Connection, port uint16) authz.Verdict {
	for _, name := range c.names {
		head.Fields = exchange.Remove(head.Fields, name)
	}
	head.Fields = append(head.Fields, c.vouched...)
	path, err := target.Normalize(head.Path)
	if err != nil {
		return authz.Verdict{Reason: err.Error()}
	}
	head.Path = path
	return authz.Evaluate(c.policies, authz.Facts{Connection: dialled.At(port), Remote: c.remote, Request: head, Token: c.token})
}

// changed asks about what a route has made of the request, if that has to be.
func (r *request) changed(head *exchange.Request, to route.Destination) authz.Verdict {
	if r.consumer == nil || to.Service != r.session.service { // else the owner of the other service has granted it
		return authz.Verdict{Allowed: true}
	}
	return r.consumer.allows(head, r.session.facts, to.Port)
}
