package daemon

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// Some servers put trailers among the headers. What only the waypoint may tell them, and who asks, doesn't come as a trailer, not to mirrors either.
func TestTrailersTellNothingThatTheWaypointVouchesFor(t *testing.T) {
	_, keys := issuer(t)
	m := newMesh(t)
	told := make(chan http.Header, 2)
	tell := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		told <- r.Trailer
	}
	m.serve(serverHost, tell)
	m.serve(serverHost+1, tell)
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(m.service("shadow", httpPort, 8080, serverHost+1)...)
	both := rule("/", "web")
	both.Filters = &l7.Filters{Mirrors: []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}}}}
	m.know(httpRoute("web", "web", both), &l7.Resource{
		Schema: 1, Origin: &l7.Origin{Kind: "RequestAuthentication", Namespace: "shop", Name: "tokens"},
		Targets: []*l7.Target{{Of: &l7.Target_Service{Service: "shop/web.shop"}}},
		Kind: &l7.Resource_Authentication{Authentication: &l7.Authentication{Issuers: []*l7.Issuer{{
			Issuer: "issuer", Keys: &l7.Issuer_Jwks{Jwks: keys}, FromHeaders: []*l7.TokenHeader{{Name: "authorization", Prefix: "Bearer "}},
			PayloadHeader: "x-payload", ClaimHeaders: []*l7.ClaimHeader{{Header: "X-Groups", Claim: []string{"groups"}}},
		}}}},
	})
	for name, c := range map[string]*http.Client{"HTTP/1": m.browser(m.caller("shop", "client")), "HTTP/2": m.browser2(m.caller("shop", "client"))} {
		fetch(t, c, "http://web/", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(strings.NewReader("hello")), -1
			r.Trailer = http.Header{"X-Sum": {"5"}}
			for _, forged := range []string{"X-Payload", "X-Groups", "Authorization", "Cookie", "X-Forwarded-Client-Cert", "X-Forwarded-For", "Content-Encoding"} {
				r.Trailer.Set(forged, "forged")
			}
		})
		for range 2 {
			got := <-told
			maps.DeleteFunc(got, func(_ string, values []string) bool { return len(values) == 0 }) // announced, and not sent
			if names := slices.Collect(maps.Keys(got)); !slices.Equal(names, []string{"X-Sum"}) {
				t.Errorf("%s: trailers are %v", name, got)
			}
		}
	}
}
