package serve

import (
	"slices"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// neverTrailers say who asks, or how the request is to be taken, so they mean something in a head alone (RFC 9110 section 6.5.1). Policies and issuers
// have looked for them there.
var neverTrailers = []string{
	"authorization", "proxy-authorization", "cookie", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-client-cert", "x-request-id",
	"content-type", "content-encoding", "content-range", "cache-control", "expect", "max-forwards", "range", "te", "trailer",
}

// trailersOf leaves out of a client's trailers what a server that puts them among the headers would believe: it may be told of by the waypoint only, or
// isn't for trailers.
func (s *session) trailersOf(trailers []exchange.Field) []exchange.Field {
	if len(trailers) == 0 {
		return trailers
	}
	vouched := s.now().Issuers.Outputs()
	trailers = slices.DeleteFunc(trailers, func(f exchange.Field) bool {
		return slices.Contains(neverTrailers, f.Name) || slices.Contains(vouched, f.Name)
	})
	if len(trailers) == 0 {
		return nil
	}
	return trailers
}
