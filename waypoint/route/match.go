package route

import (
	"regexp"
	"strings"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/index"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

type pathKind uint8

const (
	matchAny pathKind = iota
	matchExact
	matchPrefix // whole elements, without a slash at the end; / is ""
	matchRegex
)

// match is one of a rule's. It fits if everything that it has does.
type match struct {
	rule    *Rule
	rank    uint64
	kind    pathKind
	path    string
	regex   *regexp.Regexp // of the path
	method  string         // "" for any
	headers []keyMatch
	params  []keyMatch
	keys    index.Entry
}

type keyMatch struct {
	name  string
	exact string
	regex *regexp.Regexp // nil for exact
}

func (m *keyMatch) fits(value string) bool {
	if m.regex != nil {
		return m.regex.MatchString(value)
	}
	return m.exact == value
}

// view is what matches are about.
type view struct {
	path, query string
	req         *exchange.Request
}

func newView(req *exchange.Request) view {
	path, query := target.Split(req.Path)
	return view{path, query, req}
}

// first finds the first match that fits.
func (v *view) first(x *index.Index, fits func(int32) bool) (int32, bool) {
	s := x.Begin(fits)
	s.Paths(v.path)
	s.Value(index.Method, v.req.Method)
	s.Headers(v.req.Fields)
	s.Params(v.query)
	return s.First()
}

func (m *match) fits(v *view) bool {
	if m.method != "" && m.method != v.req.Method || !m.fitsPath(v.path) {
		return false
	}
	for i := range m.headers {
		if value, ok := exchange.Named(v.req, m.headers[i].name); !ok || !m.headers[i].fits(value) {
			return false
		}
	}
	for i := range m.params {
		if value, ok := target.Param(v.query, m.params[i].name); !ok || !m.params[i].fits(value) {
			return false
		}
	}
	return true
}

func (m *match) fitsPath(path string) bool {
	switch m.kind {
	case matchExact:
		return path == m.path
	case matchPrefix:
		rest, ok := strings.CutPrefix(path, m.path)
		return ok && (rest == "" || rest[0] == '/')
	case matchRegex:
		return m.regex.MatchString(path)
	}
	return true
}

// index says by what the match can be found.
func (m *match) index() (e index.Entry) {
	one := func(k index.Key) { e = append(e, []index.Key{k}) }
	switch {
	case m.kind == matchExact:
		one(index.Key{Kind: index.Path, Value: m.path})
	case m.kind == matchPrefix && m.path != "":
		one(index.Key{Kind: index.Prefix, Value: m.path})
	case m.kind == matchRegex:
		literal, _ := m.regex.LiteralPrefix()
		if key, ok := index.PrefixKey(literal); ok {
			one(key)
		}
	}
	if m.method != "" {
		one(index.Key{Kind: index.Method, Value: m.method})
	}
	for _, h := range m.headers {
		if in, _ := exchange.InFields(h.name); in && h.regex == nil {
			one(index.Key{Kind: index.Header, Name: h.name, Value: h.exact})
		}
	}
	for _, p := range m.params {
		if p.regex == nil {
			one(index.Key{Kind: index.Param, Name: p.name, Value: p.exact})
		}
	}
	return e
}
