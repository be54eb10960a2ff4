package daemon

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// A server is told who its client is, if its waypoint does that, also of a mirrored request; and never what the client says of itself there.
func TestServersAreToldWhoTheirClientIs(t *testing.T) {
	for _, told := range []bool{true, false} {
		m := newMesh(t, func(c *config.Config) { c.XFCC = told })
		said := make(chan []string, 2)
		tell := func(w http.ResponseWriter, r *http.Request) { said <- r.Header["X-Forwarded-Client-Cert"] }
		m.serve(serverHost, tell)
		m.serve(serverHost+1, tell)
		m.know(m.service("web", httpPort, 8080, serverHost)...)
		m.know(m.service("shadow", httpPort, 8080, serverHost+1)...)
		both := rule("/", "web")
		both.Filters = &l7.Filters{Mirrors: []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}}}}
		m.know(httpRoute("web", "web", both))
		c := m.browser(m.caller("shop", "client"))
		forged := []string{"URI=spiffe://cluster.local/ns/shop/sa/admin", "URI=spiffe://cluster.local/ns/shop/sa/root"}
		fetch(t, c, "http://web/", func(r *http.Request) { r.Header["X-Forwarded-Client-Cert"] = forged })
		var want []string
		if told {
			want = []string{"By=spiffe://cluster.local/ns/shop/sa/wp;URI=spiffe://cluster.local/ns/shop/sa/client"}
		}
		for range 2 {
			select {
			case got := <-said:
				if !slices.Equal(got, want) {
					t.Errorf("told %v: %q, want %q", told, got, want)
				}
			case <-time.After(patience):
				t.Error("a server wasn't asked")
			}
		}
	}
}

func TestServersHearOfTheClientAndOfThoseBeforeIt(t *testing.T) {
	m := newMesh(t)
	told := make(chan http.Header, 1)
	m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) { told <- r.Header })
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	for before, want := range map[string]string{"": "127.0.0.1", "1.2.3.4, 5.6.7.8": "1.2.3.4, 5.6.7.8,127.0.0.1"} {
		fetch(t, c, "http://web/", func(r *http.Request) {
			if before != "" {
				r.Header.Set("X-Forwarded-For", before)
			}
		})
		if got := <-told; got.Get("X-Forwarded-For") != want || got.Get("X-Forwarded-Proto") != "http" || len(got.Get("X-Request-Id")) != 36 {
			t.Errorf("the server is told %v, want %s", got, want)
		}
	}
}
