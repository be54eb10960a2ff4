// Package authz decides whether a request or connection is allowed, by the authorization policies of its service, of the waypoint, and of the
// waypoint's class.
package authz

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/waypoint/claims"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/index"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// Connection is what is known of a connection.
type Connection struct {
	// Source is the peer's address, Destination what it dialled.
	Source      netip.Addr
	Destination netip.AddrPort
	SNI         string
	peer        identity.Workload
	account     string // "namespace/name"
}

// NewConnection makes what is known of a connection of a peer, which is zero if it proved nothing.
func NewConnection(peer identity.Workload, source netip.Addr, destination netip.AddrPort, sni string) *Connection {
	c := &Connection{
		Source: plain(source), Destination: netip.AddrPortFrom(plain(destination.Addr()), destination.Port()), SNI: sni, peer: peer,
	}
	if !peer.IsZero() {
		c.account = peer.Namespace() + "/" + peer.ServiceAccount()
	}
	return c
}

// At is the same connection for another port of what was dialled.
func (c *Connection) At(port uint16) *Connection {
	other := *c
	other.Destination = netip.AddrPortFrom(c.Destination.Addr(), port)
	return &other
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Facts are what is known of a request, or of a connection that isn't looked into.
type Facts struct {
	*Connection
	// Remote is the client's address as the trusted proxies before it have told, if any, else Source.
	Remote netip.Addr
	// Request's path is normal, see target.Normalize. It is nil for a connection.
	Request *exchange.Request
	// Token is the verified one's claims; nil without any.
	Token *claims.Claims
}

// Verdict is the decision.
type Verdict struct {
	Allowed bool
	// Policy is the "namespace/name" that decided, or "" if no single one did.
	Policy string
	// Reason says in words why not; it is "" if Allowed.
	Reason string
	// Audited and DryRun name the policies that match but are only to be logged.
	Audited, DryRun []string
}

// Set is the policies of a target. It doesn't change.
type Set struct {
	denies, allows clauses
	told           []*Policy // AUDIT, and dry runs of others
	allow          bool      // there is an ALLOW policy
	escaped        bool      // a path in it has escapes
}

// clauses are rules of several policies, in order.
type clauses struct {
	list   []clause
	index  *index.Index
	claims map[string][]string // the ways to those that are keys, by their names among keys
}

type clause struct {
	policy *Policy
	rule   *rule
}

// Assemble makes a set of policies, in the order in which they are to be named.
func Assemble(policies []*Policy) *Set {
	s := &Set{}
	for _, p := range policies {
		s.escaped = s.escaped || p.escaped
		switch {
		case p.told():
			s.told = append(s.told, p)
		case p.allows():
			s.allow = true
			s.allows.add(p)
		default:
			s.denies.add(p)
		}
	}
	s.denies.file()
	s.allows.file()
	return s
}

func (c *clauses) add(p *Policy) {
	for i := range p.rules {
		c.list = append(c.list, clause{p, &p.rules[i]})
	}
}

func (c *clauses) file() {
	entries := make([]index.Entry, len(c.list))
	for i := range c.list {
		entries[i] = c.list[i].rule.keys()
	}
	c.index, c.claims = index.New(entries), claimPaths(c.list)
}

// Evaluate decides by all sets that there are for a service. What a DENY or CUSTOM policy matches is refused, as no provider is known that CUSTOM
// could ask; else it is allowed if there is no ALLOW policy or if one matches. A path that servers read in several ways has to be allowed
// in each (target.Readings, target.Decode). Allowing allocates nothing, but for the names of policies that only tell, and paths and headers that aren't plain.
func Evaluate(sets []*Set, facts Facts) Verdict {
	f := newView(&facts)
	v := evaluate(sets, &f)
	if !v.Allowed || facts.Request == nil {
		return v
	}
	path := f.path
	others := target.Readings(path)
	for _, f.path = range others {
		if other := evaluate(sets, &f); !other.Allowed {
			return other
		}
	}
	if !strings.Contains(path, "%") && !slices.ContainsFunc(sets, func(s *Set) bool { return s.escaped }) {
		return v
	}
	f.decoded = true
	for _, read := range append(others, path) {
		f.path = target.Decode(read)
		if other := evaluate(sets, &f); !other.Allowed {
			return other
		}
	}
	return v
}

// MayAllow tells whether there may be a request, by the client of a connection, that is allowed.
func MayAllow(sets []*Set, facts Facts) bool {
	f := newView(&facts)
	f.hopeful = true
	return evaluate(sets, &f).Allowed
}

func evaluate(sets []*Set, f *view) (v Verdict) {
	for _, s := range sets {
		for _, p := range s.told {
			if p.matches(f) {
				v.tell(p)
			}
		}
	}
	for _, s := range sets {
		if p := s.denies.first(f); p != nil {
			v.Policy, v.Reason = p.Name, p.denial()
			return v
		}
	}
	restricted := false
	for _, s := range sets {
		if p := s.allows.first(f); p != nil {
			v.Allowed, v.Policy = true, p.Name
			return v
		}
		restricted = restricted || s.allow
	}
	if v.Allowed = !restricted; restricted {
		v.Reason = "allow policies exist, but none allowed"
	}
	return v
}

func (v *Verdict) tell(p *Policy) {
	if p.dryRun {
		v.DryRun = append(v.DryRun, p.Name)
	} else {
		v.Audited = append(v.Audited, p.Name)
	}
}

// first returns the policy of the first clause that matches, or nil.
func (c *clauses) first(f *view) *Policy {
	if i, ok := c.find(f, func(i int32) bool { return c.list[i].rule.matches(f, c.list[i].policy) }); ok {
		return c.list[i].policy
	}
	return nil
}

// find finds the first clause that fits. Of a connection the keys aren't known that requests have, so it asks all of them.
func (c *clauses) find(f *view, fits func(int32) bool) (first int32, ok bool) {
	if f.request == nil {
		for i := range c.list {
			if fits(int32(i)) {
				return int32(i), true
			}
		}
		return 0, false
	}
	s := c.index.Begin(fits)
	s.Paths(f.path)
	s.Value(index.Method, f.request.Method)
	s.Value(index.Host, f.host)
	s.Headers(f.request.Fields)
	if !f.peer.IsZero() {
		s.Value(index.Principal, f.peer.Principal())
		s.Value(index.Namespace, f.peer.Namespace())
		s.Value(index.ServiceAccount, f.account)
	}
	s.Address(index.Source, f.Source)
	s.Address(index.Remote, f.remote)
	if f.token != nil {
		s.Value(index.RequestPrincipal, f.token.Principal)
		for name, path := range c.claims {
			f.token.Has(path, func(value string) bool {
				s.Named(index.Claim, name, value)
				return false
			})
		}
	}
	return s.First()
}

// view is Facts in the form in which attributes are compared.
type view struct {
	*Connection
	remote          netip.Addr
	request         *exchange.Request
	token           *claims.Claims
	path            string
	decoded         bool   // path is
	hopeful         bool   // what isn't known is as it has to be for the request to be allowed, not as it has to be for it to be refused
	authority, host string // in lower case; host without the port
}

func newView(f *Facts) view {
	v := view{Connection: f.Connection, remote: plain(f.Remote), request: f.Request, token: f.Token}
	if f.Request != nil {
		v.path, _ = target.Split(f.Request.Path)
		v.authority = strings.ToLower(f.Request.Authority)
		v.host, _ = target.SplitHost(v.authority)
	}
	return v
}
