package model

import "time"

// Route says where traffic to its parents goes. It is an HTTPRoute, a GRPCRoute, a TLSRoute or a TCPRoute.
type Route struct {
	Kind            Kind
	Namespace, Name string
	Generation      int64
	Created         time.Time
	Revision        string
	Parents         []ParentRef
	// ServerNames are a TLSRoute's; those of the others mean nothing in a mesh.
	ServerNames []string
	Rules       []RouteRule
	// Problem is why nothing of it is in force, whatever its parents are; nil if it may be.
	Problem *Problem
}

// RouteKinds are the kinds of routes. Where several are attached to a port of a service, the first of these counts alone.
var RouteKinds = [...]Kind{KindGRPCRoute, KindHTTPRoute, KindTLSRoute, KindTCPRoute}

func (r *Route) revision() string { return r.Revision }

// Key names it.
func (r *Route) Key() Key { return Key{r.Kind, Name{r.Namespace, r.Name}} }

// ObjectRef names an object of any kind. The namespace is that of the route where none is written.
type ObjectRef struct {
	Group, Kind string
	Name
}

// ParentRef is what a route is attached to.
type ParentRef struct {
	ObjectRef
	// Section is a listener of a gateway, or a port of a service by name; empty for all.
	Section string
	// Port is a port of the service or gateway; 0 for all.
	Port uint16
	// Written tells that the reference has a namespace written into it, which its status repeats.
	Written bool
}

// RouteRule says where some of the traffic goes.
type RouteRule struct {
	Name string
	// Matches are alternatives; at least one for HTTPRoutes and GRPCRoutes.
	Matches  []RouteMatch
	Filters  Filters
	Backends []RouteBackend
	// RequestTimeout is until the whole answer has come, TryTimeout for each try; 0 means none.
	RequestTimeout, TryTimeout time.Duration
	// Retry is nil where nothing is said of it.
	Retry *Retry
	// Problem is why the rule can't be obeyed; nil if it can.
	Problem *Problem
}

// Problem is why a part of a route can't be obeyed, in the Gateway API's words.
type Problem struct {
	// Condition is the type of the condition that becomes false.
	Condition string
	// Reason is a word for programs, Message says to a person what to do.
	Reason, Message string
}

// RouteMatch fits a request that everything of it fits.
type RouteMatch struct {
	Path            PathMatch
	Method          string
	Headers, Params []KeyMatch
	// GRPC is a GRPCRoute's match of the method, in place of Path.
	GRPC *GRPCMatch
}

// PathMatch matches a path.
type PathMatch struct {
	Type  MatchType
	Value string
}

// KeyMatch matches the value of a header, whose name is in lower case, or of a parameter of the query.
type KeyMatch struct {
	Name  string
	Type  MatchType
	Value string
}

// GRPCMatch matches a method of a service; an empty one of both matches any.
type GRPCMatch struct {
	Type            MatchType
	Service, Method string
}

// MatchType says how values are compared.
type MatchType int

// The types. A prefix is one of whole path elements, a regex is RE2 and for all of the value.
const (
	MatchExact MatchType = iota
	MatchPrefix
	MatchRegex
)

// Filters are what is done with requests and answers beside forwarding.
type Filters struct {
	RequestHeaders, ResponseHeaders *HeaderChange
	Redirect                        *Redirect
	Rewrite                         *Rewrite
	Mirrors                         []Mirror
	CORS                            *CORS
}

// PathChanges returns the changes of the path that the filters make.
func (f *Filters) PathChanges() []*PathChange {
	var changes []*PathChange
	if f.Redirect != nil && f.Redirect.Path != nil {
		changes = append(changes, f.Redirect.Path)
	}
	if f.Rewrite != nil && f.Rewrite.Path != nil {
		changes = append(changes, f.Rewrite.Path)
	}
	return changes
}

// HeaderChange sets, adds and removes headers, whose names are in lower case.
type HeaderChange struct {
	Set, Add []Header
	Remove   []string
}

// Header is a header with its value.
type Header struct{ Name, Value string }

// Redirect answers with another place. Its empty fields leave that part of the request as it is.
type Redirect struct {
	Scheme, Hostname string
	Path             *PathChange
	Port, Status     uint16
}

// Rewrite changes a request on its way.
type Rewrite struct {
	Hostname string
	Path     *PathChange
}

// PathChange puts another path, or another prefix in place of what matched.
type PathChange struct {
	Prefix bool
	Value  string
}

// Mirror sends a copy of a share of the requests. All is 1 of 1.
type Mirror struct {
	Backend                RouteBackend
	Numerator, Denominator uint32
}

// CORS says which other origins may use a browser's answers.
type CORS struct {
	Origins, Methods, Headers, Expose []string
	Credentials                       bool
	MaxAgeSeconds                     int32
}

// Retry says what is tried again.
type Retry struct {
	Attempts uint32
	Statuses []uint32
	Backoff  time.Duration // at least between two tries; 0 leaves it to the waypoint
}

// RouteBackend is where a share of the traffic goes.
type RouteBackend struct {
	Ref     ObjectRef
	Port    uint16 // 0 if none is written
	Weight  uint32
	Filters Filters
	// Problem is why it can't be used, whatever there is; nil if it may be.
	Problem *Problem
}

// Refs yields every object that the route sends traffic to; one may come twice.
func (r *Route) Refs(yield func(ObjectRef) bool) {
	for i := range r.Rules {
		rule := &r.Rules[i]
		if !rule.Filters.refs(yield) {
			return
		}
		for j := range rule.Backends {
			if !yield(rule.Backends[j].Ref) || !rule.Backends[j].Filters.refs(yield) {
				return
			}
		}
	}
}

func (f *Filters) refs(yield func(ObjectRef) bool) bool {
	for i := range f.Mirrors {
		if !yield(f.Mirrors[i].Backend.Ref) {
			return false
		}
	}
	return true
}

// Covers tells whether the reference to a service is about the port.
func (p *ParentRef) Covers(port ServicePort) bool {
	return (p.Port == 0 || p.Port == port.Port) && (p.Section == "" || p.Section == port.Name)
}

// Names tells whether the reference to a gateway is about the listener.
func (p *ParentRef) Names(l Listener) bool {
	return (p.Section == "" || p.Section == l.Name) && (p.Port == 0 || p.Port == l.Port)
}
