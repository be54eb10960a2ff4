package routes

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// findings are what is wrong with backends, rules and filters at a parent.
type findings struct {
	// refs is the first reference that can't be had; nil if there is none.
	refs *model.Problem
	// others say what else is left out.
	others []string
}

func (f *findings) note(p *model.Problem) {
	switch {
	case p == nil:
	case p.Condition != model.ResolvedRefs:
		f.others = append(f.others, p.Message)
	case f.refs == nil:
		f.refs = p
	}
}

// rules makes the rules of a route at a parent.
func (t translation) rules(r *model.Route, at *attachment) (rules []*l7.Rule, found *findings) {
	found = &findings{}
	for i := range r.Rules {
		rule := &r.Rules[i]
		out := &l7.Rule{
			Name: rule.Name, Filters: t.filters(r, at, &rule.Filters, found.note),
			RequestTimeoutMs: rule.RequestTimeout.Milliseconds(), TryTimeoutMs: rule.TryTimeout.Milliseconds(),
			Retry: retry(rule.Retry),
		}
		if rule.Problem != nil {
			out.Invalid = rule.Problem.Message
		}
		for j := range rule.Matches {
			out.Matches = append(out.Matches, match(&rule.Matches[j]))
		}
		for j := range rule.Backends {
			out.Backends = append(out.Backends, t.backend(r, at, &rule.Backends[j], found.note))
		}
		rules = append(rules, out)
	}
	return rules, found
}

func (t translation) backend(r *model.Route, at *attachment, b *model.RouteBackend, note func(*model.Problem)) *l7.Backend {
	out := &l7.Backend{Weight: b.Weight}
	ref, problem := t.resolve(r, at, b)
	if problem == nil {
		problem = b.Problem
	}
	if problem != nil {
		note(problem)
		out.Invalid = problem.Message
		return out
	}
	out.Ref, out.Filters = ref, t.filters(r, at, &b.Filters, note)
	return out
}

// resolve finds the service and port of a backend. One in another namespace than the route's needs that one's leave, but
// for the parent itself: whoever is routed there meant to go there. A waypoint dials backends with its own identity, and
// skips the backend's waypoint, so without leave a route would open what its writer can't reach.
func (t translation) resolve(r *model.Route, at *attachment, b *model.RouteBackend) (*l7.BackendRef, *model.Problem) {
	refuse := func(reason, format string, args ...any) (*l7.BackendRef, *model.Problem) {
		return nil, &model.Problem{Condition: model.ResolvedRefs, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if b.Ref.Group != "" || b.Ref.Kind != "Service" {
		return refuse(invalidKind, "backends of kind %s are not supported: use a Service", describeKind(b.Ref))
	}
	from := model.GrantFrom{Group: gatewayGroup, Kind: string(r.Kind), Namespace: r.Namespace}
	if b.Ref.Namespace != r.Namespace && b.Ref != at.parent.ObjectRef && !t.model.Permits(from, b.Ref) {
		return refuse(refNotPermitted, "no ReferenceGrant in namespace %s lets %ss of namespace %s send traffic to Service %s", b.Ref.Namespace, r.Kind, r.Namespace, b.Ref.Name.Name)
	}
	service := t.model.Service(b.Ref.Name)
	switch {
	case service == nil:
		return refuse(backendNotFound, "there is no Service %s", b.Ref.Name)
	case b.Port == 0:
		return refuse(backendNotFound, "the port of Service %s is missing", b.Ref.Name)
	case !slices.ContainsFunc(service.Ports, func(p model.ServicePort) bool { return p.Port == b.Port }):
		return refuse(backendNotFound, "Service %s has no port %d", b.Ref.Name, b.Port)
	}
	return &l7.BackendRef{Service: t.serviceName(b.Ref.Name), Port: uint32(b.Port)}, nil
}

func describeKind(ref model.ObjectRef) string {
	if ref.Group == "" {
		return ref.Kind
	}
	return ref.Kind + "." + ref.Group
}

// match ranks as the Gateway API has it, see rank.
func match(m *model.RouteMatch) *l7.Match {
	out := &l7.Match{Method: m.Method, Headers: keyMatches(m.Headers), QueryParams: keyMatches(m.Params)}
	if m.GRPC != nil {
		out.Path, out.Rank = grpcPath(m.GRPC), grpcRank(m)
		return out
	}
	out.Rank = httpRank(m)
	switch m.Path.Type {
	case model.MatchExact:
		out.Path = exactPath(m.Path.Value)
	case model.MatchPrefix:
		out.Path = prefixPath(m.Path.Value)
	case model.MatchRegex:
		out.Path = regexPath(m.Path.Value)
	}
	return out
}

func exactPath(value string) *l7.Path  { return &l7.Path{Match: &l7.Path_Exact{Exact: value}} }
func prefixPath(value string) *l7.Path { return &l7.Path{Match: &l7.Path_Prefix{Prefix: value}} }
func regexPath(value string) *l7.Path  { return &l7.Path{Match: &l7.Path_Regex{Regex: value}} }

// grpcPath matches /service/method; an empty name matches any.
func grpcPath(m *model.GRPCMatch) *l7.Path {
	switch {
	case m.Service == "" && m.Method == "":
		return prefixPath("/")
	case m.Type == model.MatchExact && m.Method == "":
		return prefixPath("/" + m.Service)
	case m.Type == model.MatchExact && m.Service != "":
		return exactPath("/" + m.Service + "/" + m.Method)
	}
	part := func(name string) string {
		switch {
		case name == "":
			return "[^/]+"
		case m.Type == model.MatchExact:
			return regexp.QuoteMeta(name)
		}
		return "(?:" + name + ")"
	}
	return regexPath("/" + part(m.Service) + "/" + part(m.Method))
}

// Ranks of HTTP, from the most to the least: an exact path, a regular expression, the longer prefix; then a method; more
// headers; more parameters. Each has bits of its own, and what is more than fits counts as the most.
func httpRank(m *model.RouteMatch) uint64 {
	var path uint64
	switch m.Path.Type {
	case model.MatchExact:
		path = 2 << 16
	case model.MatchRegex:
		path = 1 << 16
	case model.MatchPrefix:
		path = clip(len(m.Path.Value), 16)
	}
	var method uint64
	if m.Method != "" {
		method = 1
	}
	return path<<24 | method<<16 | clip(len(m.Headers), 8)<<8 | clip(len(m.Params), 8)
}

// Ranks of gRPC: the longer service, the longer method, more headers.
func grpcRank(m *model.RouteMatch) uint64 {
	return clip(len(m.GRPC.Service), 16)<<24 | clip(len(m.GRPC.Method), 16)<<8 | clip(len(m.Headers), 8)
}

func clip(number, bits int) uint64 { return min(uint64(number), 1<<bits-1) }

func keyMatches(list []model.KeyMatch) []*l7.KeyMatch {
	var out []*l7.KeyMatch
	for _, m := range list {
		one := &l7.KeyMatch{Name: m.Name, Match: &l7.KeyMatch_Exact{Exact: m.Value}}
		if m.Type == model.MatchRegex {
			one.Match = &l7.KeyMatch_Regex{Regex: m.Value}
		}
		out = append(out, one)
	}
	return out
}

func retry(r *model.Retry) *l7.Retry {
	if r == nil {
		return nil
	}
	return &l7.Retry{Attempts: r.Attempts, Statuses: r.Statuses, BackoffMs: r.Backoff.Milliseconds()}
}
