package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/config"
)

// localMesh is a mesh of which a waypoint knows by a file only: the waypoint itself, and a service whose requests for a path go to a server on port 8080.
const localMesh = `
workloads:
- {uid: wp, name: wp-1, namespace: shop, serviceAccount: wp, workloadIps: [WAYPOINT], services: {shop/wp.shop: {15008: 15008}}}
- {uid: web, name: web-1, namespace: shop, workloadIps: [SERVER], services: {shop/web.shop: {80: 8080}}}
services:
- {name: wp, namespace: shop, hostname: wp.shop, vips: [], ports: {15008: 15008}}
- {name: web, namespace: shop, hostname: web.shop, vips: [/VIP], ports: {80: 8080}, waypoint: {destination: shop/wp.shop, hboneMtlsPort: 15008}}
resources:
  HTTPRoute/shop/web:
    schema: 1
    targets: [{service: shop/web.shop, ports: [80]}]
    route:
      protocol: HTTP
      rules: [{matches: [{path: {prefix: PREFIX}}], backends: [{ref: {service: shop/web.shop, port: 80}, weight: 1}]}]
`

func TestAFileTakesThePlaceOfTheControlPlane(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte("# nothing yet"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMesh(t, func(cfg *config.Config) { cfg.Plane.LocalXDS.Path = path })
	m.serve(serverHost, echo("one"))
	c := m.browser(m.caller("shop", "client"))
	for _, prefix := range []string{"/a", "/b", "{", "/c"} {
		text := strings.NewReplacer("WAYPOINT", m.addr(waypointHost).String(), "SERVER", m.addr(serverHost).String(), "VIP", m.vip("web").String(), "PREFIX", prefix).Replace(localMesh)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if prefix == "{" { // a broken file changes nothing
			m.eventually("the waypoint to tell of a broken file", func() error {
				if !strings.Contains(m.log.String(), "file not taken; its last good state goes on") {
					return errors.New("it doesn't")
				}
				return nil
			})
			prefix = "/b"
		}
		m.eventually("the route of the file", func() error {
			for target, want := range map[string]int{prefix: http.StatusOK, "/other": http.StatusNotFound} {
				resp, err := c.Get("http://web" + target)
				if err != nil {
					return err
				}
				resp.Body.Close()
				if resp.StatusCode != want {
					return fmt.Errorf("%s: status %d, want %d", target, resp.StatusCode, want)
				}
			}
			return nil
		})
	}
}
