package jwt

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

type locationKind uint8

const (
	inHeader locationKind = iota
	inParam
	inCookie
)

// location is where a token may be in a request.
type location struct {
	kind   locationKind
	name   string
	prefix string // of a header's value, with its blank
}

func locations(i *l7.Issuer) (out []location) {
	for _, h := range i.GetFromHeaders() {
		out = append(out, location{inHeader, strings.ToLower(h.GetName()), h.GetPrefix()})
	}
	for _, name := range i.GetFromParams() {
		out = append(out, location{kind: inParam, name: name})
	}
	for _, name := range i.GetFromCookies() {
		out = append(out, location{kind: inCookie, name: name})
	}
	return out
}

// each gives every token that is there, until yield says no. A header that doesn't begin with the prefix has none: it may be another scheme's
// (RFC 9110 section 11.1).
func (l location) each(req *exchange.Request, yield func(token string) bool) {
	switch l.kind {
	case inHeader:
		for _, f := range req.Fields {
			if token, ok := l.ofHeader(f); ok && !yield(token) {
				return
			}
		}
	case inParam:
		_, query := target.Split(req.Path)
		for query != "" {
			var name, value string
			if name, value, query = target.NextParam(query); name == l.name && !yield(value) {
				return
			}
		}
	case inCookie:
		for _, f := range req.Fields {
			for rest := f.Value; f.Name == "cookie" && rest != ""; {
				var name, value string
				if name, value, rest = nextCookie(rest); name == l.name && !yield(strings.Trim(value, `"`)) {
					return
				}
			}
		}
	}
}

// ofHeader takes the prefix off, whatever its case, as schemes have it.
func (l location) ofHeader(f exchange.Field) (token string, ok bool) {
	if f.Name != l.name || len(f.Value) < len(l.prefix) || !strings.EqualFold(f.Value[:len(l.prefix)], l.prefix) {
		return "", false
	}
	return strings.TrimSpace(f.Value[len(l.prefix):]), true
}

// nextCookie takes the first cookie off a header's value (RFC 6265 section 4.2.1).
func nextCookie(cookies string) (name, value, rest string) {
	pair, rest, _ := strings.Cut(cookies, ";")
	name, value, _ = strings.Cut(strings.TrimSpace(pair), "=")
	return name, value, rest
}

// remove takes tokens out of a request.
func (l location) remove(req *exchange.Request) {
	switch l.kind {
	case inHeader:
		req.Fields = slices.DeleteFunc(req.Fields, func(f exchange.Field) bool {
			_, ok := l.ofHeader(f)
			return ok
		})
	case inParam:
		req.Path = target.WithoutParam(req.Path, l.name)
	case inCookie:
		var fields []exchange.Field
		for _, f := range req.Fields {
			if f.Name == "cookie" {
				if f.Value = l.withoutCookie(f); f.Value == "" {
					continue
				}
			}
			fields = append(fields, f)
		}
		req.Fields = fields
	}
}

func (l location) withoutCookie(f exchange.Field) string {
	var kept []string
	for pair := range strings.SplitSeq(f.Value, ";") {
		if name, _, _ := nextCookie(pair); name != l.name {
			kept = append(kept, strings.TrimSpace(pair))
		}
	}
	return strings.Join(kept, "; ")
}
