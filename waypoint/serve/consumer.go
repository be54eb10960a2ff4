package serve

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/waypoint/authz"
	"github.com/tulle-mesh/tulle/waypoint/claims"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
	"github.com/tulle-mesh/tulle/waypoint/route"
	"github.com/tulle-mesh/tulle/waypoint/table"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// consumer is what a request needs that goes by routes of its client's namespace. Who writes those has no say in what the service lets in: its policies
// are asked again about what a route makes of the request, no route brings it tokens that weren't checked, and what the waypoint vouches for no route
// changes, wherever it leads.
type consumer struct {
	policies []*authz.Set
	issuers  *jwt.Set
	remote   netip.Addr
	token    *claims.Claims
	names    []string         // of the headers that the waypoint vouches for
	vouched  []exchange.Field // as they are without a route
	tokens   []string         // that go further, the same
}

func newConsumer(rules *table.Rules, facts *authz.Facts) *consumer {
	return &consumer{policies: rules.Policies, issuers: rules.Issuers, remote: facts.Remote, token: facts.Token, names: rules.Issuers.Outputs()}
}

// vouch notes what servers are told.
func (c *consumer) vouch(head *exchange.Request) {
	c.names = append(c.names, "x-forwarded-for", "x-forwarded-client-cert")
	for _, f := range head.Fields {
		if slices.Contains(c.names, f.Name) {
			c.vouched = append(c.vouched, f)
		}
	}
	c.tokens = c.issuers.Tokens(head)
}

// restore puts right what servers are told by a head that a route has changed.
func (c *consumer) restore(head *exchange.Request) {
	for _, name := range c.names {
		head.Fields = exchange.Remove(head.Fields, name)
	}
	head.Fields = append(head.Fields, c.vouched...)
}

// allows asks about a head that a route has changed, for a port of the service.
func (c *consumer) allows(head *exchange.Request, dialled *authz.Connection, port uint16) authz.Verdict {
	if !slices.Equal(c.issuers.Tokens(head), c.tokens) {
		return authz.Verdict{Reason: "its tokens would be others than those that were checked"}
	}
	path, err := target.Normalize(head.Path)
	if err != nil {
		return authz.Verdict{Reason: err.Error()}
	}
	head.Path = path
	return authz.Evaluate(c.policies, authz.Facts{Connection: dialled.At(port), Remote: c.remote, Request: head, Token: c.token})
}

// changed asks about what a route has made of the request, if that has to be.
func (r *request) changed(head *exchange.Request, to route.Destination) authz.Verdict {
	if r.consumer == nil {
		return authz.Verdict{Allowed: true}
	}
	r.consumer.restore(head)
	if to.Service != r.session.service { // whose owner has granted it
		return authz.Verdict{Allowed: true}
	}
	return r.consumer.allows(head, r.session.facts, to.Port)
}
