package route

import (
	"strconv"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// redirect keeps of a request what it doesn't say.
type redirect struct {
	scheme, hostname string
	port             uint16
	path             pathChange
	status           int
}

// Answer is a rule's own answer, which has no body: a redirect, or what a browser asks of CORS beforehand. It is nil if the request is to be
// forwarded.
func (h Hit) Answer(req *exchange.Request) *exchange.Response {
	switch {
	case h.Invalid != "":
		return nil
	case h.cors != nil && preflight(req):
		return h.cors.answer(h.origin, req)
	case h.redirect != nil:
		res := &exchange.Response{Version: req.Version, Status: h.redirect.status}
		res.Fields = []exchange.Field{{Name: "location", Value: h.redirect.location(req, h.prefix, h.port)}}
		h.Answered(nil, res)
		return res
	}
	return nil
}

// location is as the Gateway API has it for HTTPRequestRedirectFilter; the port is the service's where that says the listener's. Without any host
// it is only a path.
func (r *redirect) location(req *exchange.Request, prefix string, port uint16) string {
	path, _ := target.Split(req.Path)
	to := r.path.apply(path, prefix) + req.Path[len(path):]
	host, _ := target.SplitHost(req.Authority)
	if r.hostname != "" {
		host = r.hostname
	}
	if host == "" {
		return to
	}
	scheme := req.Scheme
	if r.scheme != "" {
		scheme = r.scheme
		if known := wellKnownPort(scheme); known != 0 {
			port = known
		}
	}
	if r.port != 0 {
		port = r.port
	}
	if port != wellKnownPort(scheme) {
		host += ":" + strconv.Itoa(int(port))
	}
	return scheme + "://" + host + to
}

// wellKnownPort is 0 where there is none.
func wellKnownPort(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

func (c *compilation) redirect(r *l7.Redirect) *redirect {
	if r == nil {
		return nil
	}
	out := &redirect{
		scheme: r.GetScheme(), hostname: c.hostname(r.GetHostname()),
		port: uint16(r.GetPort()), path: c.pathChange(r.GetPath()), status: int(r.GetStatus()),
	}
	switch out.status {
	case 0:
		out.status = 302
	case 301, 302, 303, 307, 308:
	default:
		c.invalid("%d is no status of a redirect", out.status)
	}
	if out.scheme != "" && !exchange.ValidToken(out.scheme) {
		c.invalid("%q is no scheme", out.scheme)
	}
	if uint32(out.port) != r.GetPort() {
		c.invalid("%d is no port", r.GetPort())
	}
	return out
}
