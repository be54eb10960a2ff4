package authz

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/index"
)

// attribute is what a condition is about. Those of conditions are numbered as in l7.proto.
type attribute int32

const (
	unknown attribute = 0
	host    attribute = 1000 + iota
	method
	path
)

// keyed are the attributes by whose values rules are found.
var keyed = []attribute{
	path, host, method, attribute(l7.Condition_SOURCE_PRINCIPAL), attribute(l7.Condition_SOURCE_SERVICE_ACCOUNT),
	attribute(l7.Condition_SOURCE_NAMESPACE), attribute(l7.Condition_REQUEST_PRINCIPAL), attribute(l7.Condition_REQUEST_HEADER),
}

// condition fits if none of what it excludes does and, if it asks for anything, any of that does. Nothing fits an attribute that isn't there.
type condition struct {
	attribute attribute
	header    string
	claim     []string
	any, none []text
	// Of addresses and ports.
	anyRange, noRange []netip.Prefix
	anyPort, noPort   []uint32
}

// fits returns unknown for what can't be evaluated: attributes that aren't known, and those of requests for a connection.
func (c *condition) fits(f *view, unknown bool) bool {
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_SOURCE_IP:
		return c.fitsRange(f.Source)
	case l7.Condition_REMOTE_IP:
		return c.fitsRange(f.remote)
	case l7.Condition_DESTINATION_IP:
		return c.fitsRange(f.Destination.Addr())
	case l7.Condition_DESTINATION_PORT:
		return c.fitsPort(uint32(f.Destination.Port()))
	case l7.Condition_SOURCE_NAMESPACE:
		return c.fitsText(f.peer.Namespace(), !f.peer.IsZero())
	case l7.Condition_SOURCE_SERVICE_ACCOUNT:
		return c.fitsText(f.account, !f.peer.IsZero())
	case l7.Condition_SOURCE_TRUST_DOMAIN:
		return c.fitsText(f.peer.TrustDomain(), !f.peer.IsZero())
	case l7.Condition_SOURCE_PRINCIPAL:
		return c.fitsText(f.peer.Principal(), !f.peer.IsZero())
	case l7.Condition_CONNECTION_SNI:
		return c.fitsText(f.SNI, f.SNI != "")
	}
	if f.request == nil {
		return unknown
	}
	return c.fitsRequest(f, unknown)
}

func (c *condition) fitsRequest(f *view, unknown bool) bool {
	switch c.attribute {
	case host:
		return c.fitsHost(f)
	case method:
		return c.fitsText(f.request.Method, true)
	case path:
		return c.fitsText(f.path, f.path != "")
	}
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_REQUEST_HEADER:
		return c.fitsText(header(f.request, c.header))
	case l7.Condition_REQUEST_PRINCIPAL, l7.Condition_REQUEST_AUDIENCES, l7.Condition_REQUEST_PRESENTER, l7.Condition_REQUEST_CLAIM:
		return c.fitsToken(f)
	}
	return unknown
}

// header returns a request's header as it was on the wire.
func header(req *exchange.Request, name string) (value string, ok bool) {
	switch name {
	case "host", ":authority":
		return req.Authority, req.Authority != ""
	case ":method":
		return req.Method, true
	case ":path":
		return req.Path, req.Path != ""
	case ":scheme":
		return req.Scheme, true
	case "upgrade":
		return req.Upgrade, req.Upgrade != ""
	}
	return exchange.Joined(req.Fields, name)
}

// inFields tells whether a header is among the fields of a request if it is there; known, whether header has it at all.
func inFields(name string) (in, known bool) {
	switch name {
	case "host", ":authority", ":method", ":path", ":scheme", "upgrade":
		return false, true
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "content-length", "":
		return false, false
	}
	return true, true
}

func (c *condition) fitsToken(f *view) bool {
	if f.token == nil {
		return c.fitsText("", false)
	}
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_REQUEST_PRINCIPAL:
		return c.fitsText(f.token.Principal, true)
	case l7.Condition_REQUEST_PRESENTER:
		return c.fitsText(f.token.Presenter, f.token.Presenter != "")
	case l7.Condition_REQUEST_AUDIENCES:
		has := func(tests []text) bool {
			return slices.ContainsFunc(f.token.Audiences, func(value string) bool { return fitsAny(tests, value) })
		}
		return !has(c.none) && (len(c.any) == 0 || has(c.any))
	}
	has := func(tests []text) bool {
		return f.token.Has(c.claim, func(value string) bool { return fitsAny(tests, value) })
	}
	return !has(c.none) && (len(c.any) == 0 || has(c.any))
}

func (c *condition) fitsText(value string, there bool) bool {
	return !(there && fitsAny(c.none, value)) && (len(c.any) == 0 || there && fitsAny(c.any, value))
}

// fitsHost compares with the port what has one.
func (c *condition) fitsHost(f *view) bool {
	has := func(tests []text) bool {
		for i := range tests {
			value := f.host
			if tests[i].port {
				value = f.authority
			}
			if f.authority != "" && tests[i].fits(value) {
				return true
			}
		}
		return false
	}
	return !has(c.none) && (len(c.any) == 0 || has(c.any))
}

func (c *condition) fitsRange(a netip.Addr) bool {
	has := func(ranges []netip.Prefix) bool {
		return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(a) })
	}
	return !has(c.noRange) && (len(c.anyRange) == 0 || has(c.anyRange))
}

func (c *condition) fitsPort(port uint32) bool {
	return !slices.Contains(c.noPort, port) && (len(c.anyPort) == 0 || slices.Contains(c.anyPort, port))
}

// keys are those of which a request has one if the condition fits; none if there are no such.
func (c *condition) keys() (out []index.Key) {
	for i := range c.any {
		key, ok := c.key(&c.any[i])
		if !ok {
			return nil
		}
		out = append(out, key)
	}
	return out
}

func (c *condition) key(t *text) (index.Key, bool) {
	if c.attribute == path && t.kind != exactText {
		return t.pathKey()
	}
	key := index.Key{Value: t.value}
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_Attribute(path):
		key.Kind = index.Path
	case l7.Condition_Attribute(method):
		key.Kind = index.Method
	case l7.Condition_Attribute(host):
		key.Kind, key.Value = index.Host, t.host
	case l7.Condition_SOURCE_PRINCIPAL:
		key.Kind = index.Principal
	case l7.Condition_SOURCE_NAMESPACE:
		key.Kind = index.Namespace
	case l7.Condition_SOURCE_SERVICE_ACCOUNT:
		key.Kind = index.ServiceAccount
	case l7.Condition_REQUEST_PRINCIPAL:
		key.Kind = index.RequestPrincipal
	case l7.Condition_REQUEST_HEADER:
		in, _ := inFields(c.header)
		key.Kind, key.Name = index.Header, c.header
		return key, in && t.kind == exactText
	default:
		return index.Key{}, false
	}
	return key, t.kind == exactText
}

// compilation is of one policy.
type compilation struct {
	rule     int
	unknown  bool // what can't be evaluated fits
	problems []error
}

// unknownCondition takes the place of one that can't be read.
func (c *compilation) unknownCondition(format string, args ...any) condition {
	meaning := "so the rule allows nothing"
	if c.unknown {
		meaning = "so the rule matches whatever the rest of it does"
	}
	c.problems = append(c.problems, fmt.Errorf("rule %d: %w, %s", c.rule, fmt.Errorf(format, args...), meaning))
	return condition{attribute: unknown}
}

func (c *compilation) source(s *l7.Source) (all []condition) {
	all = c.values(all, attribute(l7.Condition_SOURCE_PRINCIPAL), s.GetPrincipals())
	all = c.values(all, attribute(l7.Condition_REQUEST_PRINCIPAL), s.GetRequestPrincipals())
	all = c.values(all, attribute(l7.Condition_SOURCE_NAMESPACE), s.GetNamespaces())
	all = c.values(all, attribute(l7.Condition_SOURCE_SERVICE_ACCOUNT), s.GetServiceAccounts())
	all = c.values(all, attribute(l7.Condition_SOURCE_TRUST_DOMAIN), s.GetTrustDomains())
	all = c.ranges(all, attribute(l7.Condition_SOURCE_IP), s.GetIpBlocks())
	return c.ranges(all, attribute(l7.Condition_REMOTE_IP), s.GetRemoteIpBlocks())
}

func (c *compilation) operation(o *l7.Operation) (all []condition) {
	all = c.values(all, host, o.GetHosts())
	all = c.values(all, method, o.GetMethods())
	all = c.values(all, path, o.GetPaths())
	if ports := o.GetPorts(); ports != nil {
		all = append(all, condition{attribute: attribute(l7.Condition_DESTINATION_PORT), anyPort: ports.GetAny(), noPort: ports.GetNone()})
	}
	return all
}

func (c *compilation) values(all []condition, a attribute, v *l7.Values) []condition {
	if v == nil {
		return all
	}
	return append(all, c.texts(condition{attribute: a}, v))
}

func (c *compilation) ranges(all []condition, a attribute, r *l7.Ranges) []condition {
	if r == nil {
		return all
	}
	return append(all, c.prefixes(condition{attribute: a}, r))
}

func (c *compilation) condition(w *l7.Condition) condition {
	out := condition{attribute: attribute(w.GetAttribute()), header: w.GetHeader(), claim: w.GetClaim()}
	switch w.GetAttribute() {
	case l7.Condition_SOURCE_IP, l7.Condition_REMOTE_IP, l7.Condition_DESTINATION_IP:
		return c.prefixes(out, w.GetRanges())
	case l7.Condition_DESTINATION_PORT:
		out.anyPort, out.noPort = w.GetPorts().GetAny(), w.GetPorts().GetNone()
		return out
	case l7.Condition_REQUEST_HEADER:
		if _, known := inFields(out.header); !known {
			return c.unknownCondition("%s is about a connection, not about what is asked", w.GetKey())
		}
	}
	if _, known := l7.Condition_Attribute_name[int32(out.attribute)]; !known || out.attribute == unknown {
		return c.unknownCondition("attribute %s isn't known", w.GetKey())
	}
	return c.texts(out, w.GetValues())
}

func (c *compilation) prefixes(out condition, r *l7.Ranges) condition {
	for _, list := range []struct {
		from []string
		to   *[]netip.Prefix
	}{{r.GetAny(), &out.anyRange}, {r.GetNone(), &out.noRange}} {
		for _, value := range list.from {
			prefix, err := netip.ParsePrefix(value)
			if err != nil {
				return c.unknownCondition("%w", err)
			}
			*list.to = append(*list.to, prefix)
		}
	}
	return out
}

func (c *compilation) texts(out condition, v *l7.Values) condition {
	for _, list := range []struct {
		from []*l7.StringMatch
		to   *[]text
	}{{v.GetAny(), &out.any}, {v.GetNone(), &out.none}} {
		for _, m := range list.from {
			t, err := newText(out.attribute, m)
			if err != nil {
				return c.unknownCondition("%w", err)
			}
			*list.to = append(*list.to, t)
		}
	}
	return out
}
