package daemon

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

func TestARevokedClientsTunnelIsCutAndItGetsNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crl.pem")
	m := newMesh(t, func(c *config.Config) { c.Security.CRL = path })
	m.serve(serverHost, echo("web"))
	m.know(m.service("web", workload.AppProtocol_HTTP11, 8080, serverHost)...)
	credential := m.ca.Credential(m.ca.Identity("shop", "client"))
	c := m.proven(credential)
	live, err := m.through(c, "web")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(credential.Certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(m.ca.Revoke(time.Now().Add(time.Hour), leaf)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	_ = live.SetReadDeadline(time.Now().Add(patience))
	if n, err := live.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the open tunnel goes on: %d bytes, %v", n, err)
	}
	if conn, err := m.through(c, "web"); err == nil {
		conn.Close()
		t.Error("a new tunnel is made with a revoked certificate")
	}
	m.eventually("the refusal to be counted", func() error {
		if m.metric("istio_crl_policy_rejections_total", `reporter="destination"`) < 1 {
			return os.ErrNotExist
		}
		return nil
	})
	if _, body := fetch(t, m.browser(m.caller("shop", "other")), "http://web/"); !strings.HasPrefix(body, "web GET /") {
		t.Errorf("another client is answered %q", body)
	}
}
