package authz

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// attribute is what a condition is about. Those of conditions are numbered as in l7.proto.
type attribute int32

const (
	unknown attribute = 0
	host    attribute = 1000 + iota
	method
	path
)

// condition fits if none of what it excludes does and, if it asks for anything, any of that does. Nothing fits an attribute that isn't there.
type condition struct {
	attribute attribute
	header    string
	claim     []string
	any, none texts
	// Of addresses and ports.
	anyRange, noRange ranges
	anyPort, noPort   []uint32
}

// fits returns unknown for what can't be evaluated: attributes that aren't known, those of requests for a connection, and the address of what was dialled
// by its name.
func (c *condition) fits(f *view, unknown bool) bool {
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_SOURCE_IP:
		return c.fitsRange(f.Source)
	case l7.Condition_REMOTE_IP:
		return c.fitsRange(f.remote)
	case l7.Condition_DESTINATION_IP:
		if !f.Destination.Addr().IsValid() { // a name was dialled
			return unknown
		}
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
		any, none, there := c.any.of(f), c.none.of(f), f.path != ""
		return !(there && none.fits(f.path)) && (any.empty() || there && any.fits(f.path))
	}
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_REQUEST_HEADER:
		return c.fitsText(exchange.Named(f.request, c.header))
	case l7.Condition_REQUEST_PRINCIPAL, l7.Condition_REQUEST_AUDIENCES, l7.Condition_REQUEST_PRESENTER, l7.Condition_REQUEST_CLAIM:
		return c.fitsToken(f)
	}
	return unknown
}

func (c *condition) fitsToken(f *view) bool {
	if f.token == nil {
		return c.fitsText("", false)
	}
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_REQUEST_PRINCIPAL:
		return c.fitsText(f.token.Principal, f.token.Principal != "")
	case l7.Condition_REQUEST_PRESENTER:
		return c.fitsText(f.token.Presenter, f.token.Presenter != "")
	case l7.Condition_REQUEST_AUDIENCES:
		return !slices.ContainsFunc(f.token.Audiences, c.none.fits) && (c.any.empty() || slices.ContainsFunc(f.token.Audiences, c.any.fits))
	}
	return !f.token.Has(c.claim, c.none.fits) && (c.any.empty() || f.token.Has(c.claim, c.any.fits))
}

func (c *condition) fitsText(value string, there bool) bool {
	return !(there && c.none.fits(value)) && (c.any.empty() || there && c.any.fits(value))
}

// fitsHost compares with the port what has one.
func (c *condition) fitsHost(f *view) bool {
	return !c.none.fitsHost(f.authority, f.host) && (c.any.empty() || c.any.fitsHost(f.authority, f.host))
}

func (c *condition) fitsRange(a netip.Addr) bool {
	return !c.noRange.contain(a) && (c.anyRange.empty() || c.anyRange.contain(a))
}

func (c *condition) fitsPort(port uint32) bool {
	return !slices.Contains(c.noPort, port) && (len(c.anyPort) == 0 || slices.Contains(c.anyPort, port))
}
