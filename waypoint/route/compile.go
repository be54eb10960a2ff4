package route

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// Compile makes a route of the control plane's. What of it can't be obeyed refuses, so there always is a route; the error says what that is.
func Compile(origin *l7.Origin, r *l7.Route) (*Route, error) {
	out := &Route{protocol: r.GetProtocol(), precedence: r.GetPrecedence()}
	if _, known := l7.Route_Protocol_name[int32(out.protocol)]; !known {
		out.protocol = l7.Route_UNKNOWN
	}
	var problems []error
	for i, rule := range r.GetRules() {
		c := compilation{rule: &Rule{Route: fullName(origin), Name: rule.GetName(), Invalid: rule.GetInvalid()}}
		c.compile(rule)
		for _, problem := range c.problems {
			problems = append(problems, fmt.Errorf("%s: rule %d: %w", c.rule.Route, i, problem))
		}
		out.rules = append(out.rules, c.rule)
		out.matches = append(out.matches, c.matches...)
	}
	if out.requests() {
		return out, errors.Join(problems...)
	}
	if len(out.rules) == 0 {
		out.rules = []*Rule{{Route: fullName(origin), Invalid: "the route has no rule"}}
	}
	out.serverNames = []string{""}
	if out.protocol == l7.Route_TLS && len(r.GetServerNames()) > 0 {
		out.serverNames = nil
		for _, name := range r.GetServerNames() {
			out.serverNames = append(out.serverNames, strings.TrimPrefix(strings.ToLower(name), "*"))
		}
	}
	return out, errors.Join(problems...)
}

func fullName(o *l7.Origin) string {
	return o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
}

// compilation is of one rule.
type compilation struct {
	rule     *Rule
	matches  []*match
	problems []error
}

// invalid makes the rule refuse, if it doesn't already.
func (c *compilation) invalid(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	c.problems = append(c.problems, err)
	if c.rule.Invalid == "" {
		c.rule.Invalid = err.Error()
	}
}

func (c *compilation) compile(r *l7.Rule) {
	rule := c.rule
	rule.RequestTimeout = time.Duration(max(0, r.GetRequestTimeoutMs())) * time.Millisecond
	rule.TryTimeout = time.Duration(max(0, r.GetTryTimeoutMs())) * time.Millisecond
	if retry := r.GetRetry(); retry != nil {
		rule.Retry = &Retry{Attempts: int(retry.GetAttempts()), Backoff: time.Duration(max(0, retry.GetBackoffMs())) * time.Millisecond}
		for _, status := range retry.GetStatuses() {
			rule.Retry.Statuses = append(rule.Retry.Statuses, int(status))
		}
	}
	for _, m := range r.GetMatches() {
		c.matches = append(c.matches, c.match(m))
	}
	f := r.GetFilters()
	rule.filters, rule.Mirrors = c.filters(f), c.mirrors(f)
	rule.redirect, rule.cors = c.redirect(f.GetRedirect()), c.cors(f.GetCors())
	for _, b := range r.GetBackends() {
		rule.backends = append(rule.backends, c.backend(b))
		rule.weights += uint64(b.GetWeight())
	}
}

func (c *compilation) backend(b *l7.Backend) Backend {
	out := Backend{Invalid: b.GetInvalid(), weight: uint64(b.GetWeight())}
	if out.Invalid != "" {
		return out
	}
	var ok bool
	if out.Destination, ok = destination(b.GetRef()); !ok {
		out.Invalid = fmt.Sprintf("the backend %q has no port %d", b.GetRef().GetService(), b.GetRef().GetPort())
		c.problems = append(c.problems, errors.New(out.Invalid))
	}
	if b.GetFilters().GetRedirect() != nil || b.GetFilters().GetCors() != nil {
		c.invalid("a backend with a filter that is for rules")
	}
	out.filters, out.Mirrors = c.filters(b.GetFilters()), c.mirrors(b.GetFilters())
	return out
}

func destination(ref *l7.BackendRef) (d Destination, ok bool) {
	d = Destination{Service: ref.GetService(), Port: uint16(ref.GetPort())}
	return d, d.Service != "" && d.Port != 0 && uint32(d.Port) == ref.GetPort()
}

func (c *compilation) mirrors(f *l7.Filters) (out []Mirror) {
	for _, m := range f.GetMirrors() {
		d, ok := destination(m.GetBackend())
		if !ok {
			c.problems = append(c.problems, fmt.Errorf("a mirror without a service or port is left out: %q, port %d", d.Service, m.GetBackend().GetPort()))
			continue
		}
		out = append(out, Mirror{Destination: d, numerator: uint64(m.GetNumerator()), denominator: uint64(m.GetDenominator())})
	}
	return out
}

// match leaves out what it can't read: then the rule refuses all that the rest of the match fits.
func (c *compilation) match(m *l7.Match) *match {
	out := &match{rule: c.rule, rank: m.GetRank(), method: m.GetMethod()}
	switch path := m.GetPath().GetMatch().(type) {
	case *l7.Path_Exact:
		out.kind, out.path = matchExact, c.spell(path.Exact)
	case *l7.Path_Prefix:
		out.kind, out.path = matchPrefix, strings.TrimRight(c.spell(path.Prefix), "/")
	case *l7.Path_Regex:
		if out.regex = c.regex(path.Regex); out.regex != nil {
			out.kind = matchRegex
		}
	default:
		if m.GetPath() != nil {
			c.invalid("a match of paths that isn't known")
		}
	}
	for _, header := range m.GetHeaders() {
		out.headers = c.keyMatch(out.headers, strings.ToLower(header.GetName()), header)
	}
	for _, param := range m.GetQueryParams() {
		out.params = c.keyMatch(out.params, param.GetName(), param)
	}
	out.keys = out.index()
	return out
}

func (c *compilation) spell(path string) string {
	spelled, err := target.Spell(path)
	if err != nil {
		c.invalid("path %q: %w", path, err)
	}
	return spelled
}

func (c *compilation) keyMatch(list []keyMatch, name string, m *l7.KeyMatch) []keyMatch {
	switch value := m.GetMatch().(type) {
	case *l7.KeyMatch_Exact:
		return append(list, keyMatch{name: name, exact: value.Exact})
	case *l7.KeyMatch_Regex:
		if regex := c.regex(value.Regex); regex != nil {
			return append(list, keyMatch{name: name, regex: regex})
		}
	default:
		c.invalid("a match of %q that isn't known", name)
	}
	return list
}

// regex matches all of a text; it is nil if there is no such expression.
func (c *compilation) regex(text string) *regexp.Regexp {
	if _, err := regexp.Compile(text); err != nil { // alone, so that it can't end the group below
		c.invalid("%w", err)
		return nil
	}
	return regexp.MustCompile("^(?:" + text + ")$")
}
