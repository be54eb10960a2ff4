package hbone

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/trace"
)

// Request is what a CONNECT says: where to, and who asks.
type Request struct {
	Authority Authority
	Baggage   Baggage
	Forwarded Forwarded
	Trace     trace.Context // by which a peer that traces names the connection as others on its way do
	Network   string        // x-forwarded-network: the origin network, when the connection came through a gateway
}

const maxNetwork = 256 // bytes of a network's name

// fields are the request's headers. Addresses and trace ids differ each time, so they are kept out of the peer's table.
func (r Request) fields() []hpack.HeaderField {
	fields := append(make([]hpack.HeaderField, 0, 6),
		hpack.HeaderField{Name: ":method", Value: "CONNECT"},
		hpack.HeaderField{Name: ":authority", Value: r.Authority.String()})
	add := func(name, value string, once bool) {
		if value != "" {
			fields = append(fields, hpack.HeaderField{Name: name, Value: value, Sensitive: once})
		}
	}
	add("baggage", r.Baggage.String(), false)
	add("forwarded", r.Forwarded.String(), true)
	add("traceparent", r.Trace.String(), true)
	add("x-forwarded-network", r.Network, false)
	return fields
}

var errMethod = errors.New("request is not a CONNECT")

// parseRequest reads a request's headers. Only the method and the authority can be wrong; what else can't be understood is
// left out, as it informs only.
func parseRequest(fields []hpack.HeaderField) (r Request, err error) {
	method, authority := "", ""
	for _, f := range fields {
		switch f.Name {
		case ":method":
			method = f.Value
		case ":authority":
			authority = f.Value
		case "baggage":
			r.Baggage = parseBaggage(f.Value)
		case "forwarded":
			r.Forwarded, _ = parseForwarded(f.Value)
		case "traceparent":
			r.Trace, _ = trace.Parse(f.Value)
		case "x-forwarded-network":
			if len(f.Value) <= maxNetwork {
				r.Network = f.Value
			}
		}
	}
	if method != "CONNECT" {
		return r, fmt.Errorf("%w but %.20q", errMethod, method)
	}
	r.Authority, err = ParseAuthority(authority)
	return r, err
}

// responseFields are the headers of an answer.
func responseFields(status int, b Baggage) []hpack.HeaderField {
	fields := append(make([]hpack.HeaderField, 0, 2), hpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)})
	if header := b.String(); header != "" {
		fields = append(fields, hpack.HeaderField{Name: "baggage", Value: header})
	}
	return fields
}
