package route

import (
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// filters are what is changed of a request's head and of its answer's.
type filters struct {
	request, response headerChange
	hostname          string // "" to keep it
	path              pathChange
}

// headerChange sets, then adds, then removes.
type headerChange struct {
	host     string // of requests, which aren't without one; "" to keep it
	set, add []exchange.Field
	remove   []string
}

// pathChange is of a path, without its query.
type pathChange struct {
	kind pathChangeKind
	with string // for a prefix, without a slash at the end
}

type pathChangeKind uint8

const (
	pathKept pathChangeKind = iota
	pathReplaced
	prefixReplaced
)

// Forward changes the head of a request as the rule has it.
func (h Hit) Forward(req *exchange.Request) { h.Rule.filters.forward(req, h.prefix) }

// ForwardTo changes the head of a request, on which Forward was called, as its backend has it.
func (h Hit) ForwardTo(b *Backend, req *exchange.Request) { b.filters.forward(req, h.prefix) }

// Answered changes the head of an answer, which came from a backend or is the waypoint's own, for which the backend is nil.
func (h Hit) Answered(b *Backend, res *exchange.Response) {
	if b != nil {
		res.Fields = b.filters.response.apply(res.Fields)
	}
	res.Fields = h.Rule.filters.response.apply(res.Fields)
	if h.cors != nil {
		h.cors.share(h.origin, res)
	}
}

func (f *filters) forward(req *exchange.Request, prefix string) {
	if f.request.host != "" {
		req.Authority = f.request.host
	}
	req.Fields = f.request.apply(req.Fields)
	if f.hostname != "" {
		req.Authority = f.hostname
	}
	if f.path.kind != pathKept {
		path, _ := target.Split(req.Path)
		req.Path = f.path.apply(path, prefix) + req.Path[len(path):]
	}
}

func (c *headerChange) apply(fields []exchange.Field) []exchange.Field {
	for _, f := range c.set {
		fields = exchange.Set(fields, f.Name, f.Value)
	}
	fields = append(fields, c.add...)
	for _, name := range c.remove {
		fields = exchange.Remove(fields, name)
	}
	return fields
}

// apply is as the Gateway API has it for HTTPPathModifier. A path that doesn't begin with the prefix (any more) is kept.
func (c pathChange) apply(path, prefix string) string {
	switch c.kind {
	case pathReplaced:
		return c.with
	case prefixReplaced:
		rest, ok := strings.CutPrefix(path, prefix)
		switch {
		case !ok || rest != "" && rest[0] != '/':
			return path
		case rest == "" && c.with == "":
			return "/"
		}
		return c.with + rest
	}
	return path
}

func (c *compilation) filters(f *l7.Filters) filters {
	rewrite := f.GetRewrite()
	return filters{
		request: c.headerChange(f.GetRequestHeaders()), response: c.headerChange(f.GetResponseHeaders()),
		hostname: c.hostname(rewrite.GetHostname()), path: c.pathChange(rewrite.GetPath()),
	}
}

func (c *compilation) headerChange(h *l7.HeaderChange) (out headerChange) {
	for _, header := range h.GetSet() {
		if name := strings.ToLower(header.GetName()); name == "host" {
			out.host = c.hostname(header.GetValue())
		} else if c.mayChange(name) {
			out.set = append(out.set, exchange.Field{Name: name, Value: c.value(name, header.GetValue())})
		}
	}
	for _, header := range h.GetAdd() {
		if name := strings.ToLower(header.GetName()); c.mayChange(name) {
			out.add = append(out.add, exchange.Field{Name: name, Value: c.value(name, header.GetValue())})
		}
	}
	for _, name := range h.GetRemove() {
		if name = strings.ToLower(name); c.mayChange(name) {
			out.remove = append(out.remove, name)
		}
	}
	return out
}

// mayChange refuses names that aren't, and those that say where a message ends or what its connection is: who could change them could make
// two messages of one.
func (c *compilation) mayChange(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "trailer", "content-length", "host":
		c.invalid("header %q can't be changed by a route", name)
		return false
	}
	if !exchange.ValidToken(name) {
		c.invalid("%q is no name of a header", name)
		return false
	}
	return true
}

// value refuses what would break out of a header.
func (c *compilation) value(name, value string) string {
	if !exchange.ValidValue(value) {
		c.invalid("header %s: the value %q has a control character", name, value)
		return ""
	}
	return value
}

func (c *compilation) hostname(value string) string {
	if !exchange.ValidAuthority(value) {
		c.invalid("%q is no hostname", value)
		return ""
	}
	return value
}

// path returns a path that begins with a slash and has no query.
func (c *compilation) path(value string) string {
	value = "/" + strings.TrimPrefix(value, "/")
	if !exchange.ValidPath(value) || strings.Contains(value, "?") {
		c.invalid("%q is no path", value)
		return "/"
	}
	return value
}

func (c *compilation) pathChange(p *l7.PathChange) pathChange {
	switch change := p.GetChange().(type) {
	case *l7.PathChange_Full:
		return pathChange{pathReplaced, c.path(change.Full)}
	case *l7.PathChange_Prefix:
		return pathChange{prefixReplaced, strings.TrimRight(c.path(change.Prefix), "/")}
	}
	if p != nil {
		c.invalid("a change of paths that isn't known")
	}
	return pathChange{}
}
