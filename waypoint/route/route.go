// Package route says where a request or connection goes, by the routes of a service's port, and what is done to its head on the way.
//
// What is asked of it, in this order:
//
//	hit, ok := routes.Match(req, port)   // no hit: status 404
//	hit.Answer(req)                      // not nil: that is the answer
//	hit.Invalid                          // not empty: status 500
//	hit.Forward(req)                     // then a copy of req, fields and all, goes to those of hit.Mirrors that are Chosen
//	hit.Backend(random)                  // nil, or one that is Invalid: status 500
//	hit.ForwardTo(backend, req)          // then a copy to those of backend.Mirrors
//	hit.Answered(backend, response)
package route

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/index"
)

// Route is a route of a user's, compiled. It doesn't change.
type Route struct {
	protocol    l7.Route_Protocol
	precedence  string
	serverNames []string
	rules       []*Rule
	matches     []*match
}

// Rule is what a route does with what it matches. It doesn't change.
type Rule struct {
	Route string // such as HTTPRoute/shop/web
	Name  string // as the user named it; may be empty
	// Invalid says why the rule can't be obeyed: what it matches is answered with status 500, or reset. "" if it can.
	Invalid                    string
	RequestTimeout, TryTimeout time.Duration // until all of the answer has come, and for each try; 0 for none
	Retry                      *Retry        // nil if only what surely wasn't processed is tried again
	Mirrors                    []Mirror
	redirect                   *redirect
	filters                    filters
	cors                       *cors
	backends                   []Backend
	weights                    uint64 // their sum
}

// Retry says when a request that failed is tried again.
type Retry struct {
	Attempts int           // after the first
	Statuses []int         // that are failures
	Backoff  time.Duration // at least, between tries; 0 if the route doesn't say
}

// Destination is a port of a service.
type Destination struct {
	Service string // "namespace/hostname"
	Port    uint16
}

// Backend is one of those that share a rule's requests.
type Backend struct {
	Destination
	Invalid string // why it can't be used: its share is answered with status 500, or reset; "" if it can
	Mirrors []Mirror
	weight  uint64
	filters filters
}

// Mirror gets copies of a share of the requests.
type Mirror struct {
	Destination
	numerator, denominator uint64
}

// Chosen decides on one request, by a number of at least 32 random bits.
func (m *Mirror) Chosen(random uint64) bool {
	return m.denominator == 0 || random%m.denominator < m.numerator
}

// Backend chooses by weight, by a number of at least 32 random bits. It is nil if no backend has any.
func (r *Rule) Backend(random uint64) *Backend {
	if r.weights == 0 {
		return nil
	}
	random %= r.weights
	for i := range r.backends {
		if random < r.backends[i].weight {
			return &r.backends[i]
		}
		random -= r.backends[i].weight
	}
	return nil
}

// LeadsTo tells whether the rule has a backend of that destination that gets a share.
func (r *Rule) LeadsTo(d Destination) bool {
	return r != nil && r.Invalid == "" && slices.ContainsFunc(r.backends, func(b Backend) bool { return b.Destination == d && b.Invalid == "" && b.weight > 0 })
}

// Routes are all routes of a port. They don't change.
type Routes struct {
	Protocol l7.Route_Protocol
	matches  []*match
	index    *index.Index
	servers  map[string]*Rule // by server name; of *.name it has .name; "" is any
}

// Refused is for what has a route that nobody here knows how to read: everything is answered with status 500, or reset.
func Refused(reason string) *Routes {
	rule := &Rule{Invalid: reason}
	return &Routes{
		Protocol: l7.Route_HTTP, matches: []*match{{rule: rule}}, index: index.New([]index.Entry{nil}), servers: map[string]*Rule{"": rule},
	}
}

// Assemble makes a port's routes. The rules' matches are put in order, which is what it costs; none is compiled again.
func Assemble(routes []*Route) *Routes {
	routes = slices.SortedFunc(slices.Values(routes), func(a, b *Route) int { return strings.Compare(a.precedence, b.precedence) })
	out := &Routes{Protocol: routes[0].protocol, servers: map[string]*Rule{}}
	for _, r := range routes {
		if r.protocol == l7.Route_UNKNOWN || r.requests() != routes[0].requests() {
			return Refused("a route of a protocol that isn't known, or routes of several: update the waypoint, or give each protocol a port of its own")
		}
		out.matches = append(out.matches, r.matches...)
		for _, name := range r.serverNames {
			if _, taken := out.servers[name]; !taken {
				out.servers[name] = r.rules[0]
			}
		}
	}
	slices.SortStableFunc(out.matches, func(a, b *match) int { return cmp.Compare(b.rank, a.rank) })
	entries := make([]index.Entry, len(out.matches))
	for i, m := range out.matches {
		entries[i] = m.keys
	}
	out.index = index.New(entries)
	return out
}

// requests tells whether the route is about requests, not connections.
func (r *Route) requests() bool { return r.protocol == l7.Route_HTTP || r.protocol == l7.Route_GRPC }

// Hit is the rule that a request goes by, with what it needs to know of the request as it was.
type Hit struct {
	*Rule
	port   uint16
	prefix string // of the path: what the match named; "" for /
	origin string // for CORS
}

// Match finds the rule for a request to a port; ok is false if there is none. Nothing is allocated, but where a header that rules ask for has
// several lines or a parameter is escaped. The path is to be normal, see target.Normalize.
func (r *Routes) Match(req *exchange.Request, port uint16) (h Hit, ok bool) {
	v := newView(req)
	first, ok := v.first(r.index, func(i int32) bool { return r.matches[i].fits(&v) })
	if !ok {
		return Hit{}, false
	}
	m := r.matches[first]
	h = Hit{Rule: m.rule, port: port}
	if m.kind != matchRegex {
		h.prefix = m.path
	}
	if m.rule.cors != nil {
		h.origin, _ = exchange.Get(req.Fields, "origin")
	}
	return h, true
}

// maxServerName is longer than any name of DNS, in bytes (RFC 1035 section 2.3.4).
const maxServerName = 255

// Connection finds the rule for a connection: of TLS by the server name, "" if the client named none. It is nil if there is none.
func (r *Routes) Connection(serverName string) *Rule {
	if len(serverName) > maxServerName || strings.HasPrefix(serverName, ".") {
		return r.servers[""]
	}
	serverName = strings.ToLower(serverName)
	if rule := r.servers[serverName]; rule != nil {
		return rule
	}
	for i := range len(serverName) { // the longest suffix first
		if serverName[i] == '.' {
			if rule := r.servers[serverName[i:]]; rule != nil {
				return rule
			}
		}
	}
	return r.servers[""]
}
