package daemon

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// On a port of which nothing is known, no way to write a request has a server take it for one that the waypoint hasn't seen, with headers that only that
// may tell.
func TestNoSpellingOfARequestGoesRoundTheWaypoint(t *testing.T) {
	_, keys := issuer(t)
	m := newMesh(t, func(c *config.Config) { c.XFCC = true })
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "told %q %q", r.Header["X-Groups"], r.Header["X-Forwarded-Client-Cert"])
	})
	m.know(m.service("web", workload.AppProtocol_UNKNOWN, 8080, serverHost)...)
	m.know(&l7.Resource{
		Schema: 1, Origin: &l7.Origin{Kind: "RequestAuthentication", Namespace: "shop", Name: "tokens"},
		Targets: []*l7.Target{{Of: &l7.Target_Service{Service: "shop/web.shop"}}},
		Kind: &l7.Resource_Authentication{Authentication: &l7.Authentication{Issuers: []*l7.Issuer{{
			Issuer: "issuer", Keys: &l7.Issuer_Jwks{Jwks: keys}, FromHeaders: []*l7.TokenHeader{{Name: "authorization", Prefix: "Bearer "}},
			ClaimHeaders: []*l7.ClaimHeader{{Header: "x-groups", Claim: []string{"groups"}}},
		}}}},
	})
	for name, line := range map[string]string{
		"as it should be": "GET / HTTP/1.1\r\n", "an empty line first": "\r\nGET / HTTP/1.1\r\n", "a very long line": "GET /" + strings.Repeat("x", 9000) + " HTTP/1.1\r\n",
		"a very long method": strings.Repeat("X", 40) + " / HTTP/1.1\r\n", "two spaces": "GET  / HTTP/1.1\r\n", "small letters": "GET / http/1.1\r\n", "LF alone": "\nGET / HTTP/1.1\r\n",
	} {
		conn, err := m.through(m.caller("shop", "client"), "web")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, line+"Host: web\r\nX-Groups: admin\r\nX-Forwarded-Client-Cert: URI=root\r\nConnection: close\r\n\r\n")
		text, err := io.ReadAll(conn)
		if err != nil || strings.Contains(string(text), "admin") || strings.Contains(string(text), "root") || name == "as it should be" && !strings.Contains(string(text), "told []") {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		conn.Close()
	}
}
