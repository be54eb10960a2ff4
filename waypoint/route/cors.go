package route

import (
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// defaultMaxAge is for how many seconds browsers may remember an answer, where the route doesn't say.
const defaultMaxAge = 5

// cors says which web pages' scripts may read answers (Gateway API HTTPCORSFilter, Fetch section 3.3).
type cors struct {
	anyOrigin                bool
	origins                  []origin
	credentials              bool
	methods, headers, expose list
	maxAge                   string
}

// list is the value of a header, of which * is anything.
type list struct {
	text string
	any  bool
}

// origin is where pages come from. Of a host with a wildcard, it has what is behind the star.
type origin struct {
	scheme, host string
	wildcard     bool
	port         string
}

// parseOrigin reads <scheme>://<host>[:<port>] (RFC 6454 section 6.2); ok is false for anything else, such as "null".
func parseOrigin(text string) (o origin, ok bool) {
	scheme, authority, ok := strings.Cut(strings.ToLower(text), "://")
	if !ok || scheme == "" || authority == "" || strings.ContainsAny(authority, "/?#@ \t") {
		return origin{}, false
	}
	o = origin{scheme: scheme, host: authority}
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		o.host, o.port = authority[:i], authority[i+1:]
		if n, err := strconv.ParseUint(o.port, 10, 16); err != nil || n == 0 {
			return origin{}, false
		}
	}
	if o.port == "" {
		o.port = strconv.Itoa(int(wellKnownPort(scheme)))
	}
	return o, o.host != ""
}

// fits tells whether an origin is one of those that o stands for.
func (o origin) fits(from origin) bool {
	if o.scheme != from.scheme || o.port != from.port {
		return false
	}
	if o.wildcard {
		return strings.HasSuffix(from.host, o.host) && len(from.host) > len(o.host)
	}
	return o.host == from.host
}

func (c *cors) allows(text string) bool {
	if c.anyOrigin {
		return text != ""
	}
	from, ok := parseOrigin(text)
	if !ok {
		return false
	}
	for _, o := range c.origins {
		if o.fits(from) {
			return true
		}
	}
	return false
}

// preflight tells whether a browser asks whether it may ask.
func preflight(req *exchange.Request) bool {
	if req.Method != "OPTIONS" {
		return false
	}
	_, origin := exchange.Get(req.Fields, "origin")
	_, method := exchange.Get(req.Fields, "access-control-request-method")
	return origin && method
}

// answer tells a browser what it may ask for. A page that may nothing hears nothing of it.
func (c *cors) answer(from string, req *exchange.Request) *exchange.Response {
	res := &exchange.Response{Version: req.Version, Status: 204}
	c.vary(res)
	if !c.allows(from) {
		return res
	}
	c.allow(from, res)
	for _, of := range []struct {
		list         list
		asked, allow string
	}{
		{c.methods, "access-control-request-method", "access-control-allow-methods"},
		{c.headers, "access-control-request-headers", "access-control-allow-headers"},
	} {
		value := of.list.text
		if of.list.any && c.credentials { // a star would be taken for itself
			value, _ = exchange.Joined(req.Fields, of.asked)
		}
		if value != "" {
			res.Fields = append(res.Fields, exchange.Field{Name: of.allow, Value: value})
		}
	}
	res.Fields = append(res.Fields, exchange.Field{Name: "access-control-max-age", Value: c.maxAge})
	return res
}

// share tells a browser which page may read an answer. What the server says of that doesn't count.
func (c *cors) share(from string, res *exchange.Response) {
	for _, name := range []string{"access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"} {
		res.Fields = exchange.Remove(res.Fields, name)
	}
	c.vary(res)
	if !c.allows(from) {
		return
	}
	c.allow(from, res)
	if c.expose.text != "" && !(c.expose.any && c.credentials) {
		res.Fields = append(res.Fields, exchange.Field{Name: "access-control-expose-headers", Value: c.expose.text})
	}
}

// vary tells caches that another origin may get another answer.
func (c *cors) vary(res *exchange.Response) {
	if !c.anyOrigin || c.credentials {
		res.Fields = append(res.Fields, exchange.Field{Name: "vary", Value: "Origin"})
	}
}

func (c *cors) allow(from string, res *exchange.Response) {
	if c.anyOrigin && !c.credentials {
		from = "*"
	}
	res.Fields = append(res.Fields, exchange.Field{Name: "access-control-allow-origin", Value: from})
	if c.credentials {
		res.Fields = append(res.Fields, exchange.Field{Name: "access-control-allow-credentials", Value: "true"})
	}
}

func (c *compilation) cors(f *l7.CORS) *cors {
	if f == nil {
		return nil
	}
	age := int(f.GetMaxAgeSeconds())
	if age <= 0 {
		age = defaultMaxAge
	}
	out := &cors{
		credentials: f.GetAllowCredentials(), maxAge: strconv.Itoa(age),
		methods: c.list(f.GetAllowMethods()), headers: c.list(f.GetAllowHeaders()), expose: c.list(f.GetExposeHeaders()),
	}
	for _, text := range f.GetAllowOrigins() {
		if text == "*" {
			out.anyOrigin = true
			continue
		}
		o, ok := parseOrigin(text)
		o.host, o.wildcard = strings.CutPrefix(o.host, "*")
		if !ok || strings.Contains(o.host, "*") {
			c.invalid("%q is no origin: write https://name, or https://*.name for all under a name", text)
			continue
		}
		out.origins = append(out.origins, o)
	}
	return out
}

func (c *compilation) list(names []string) (out list) {
	for _, name := range names {
		out.any = out.any || name == "*"
		if !exchange.ValidToken(name) {
			c.invalid("%q is no name of a header or method", name)
		}
	}
	out.text = strings.Join(names, ",")
	return out
}
