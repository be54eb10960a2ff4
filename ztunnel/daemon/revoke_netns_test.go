package daemon

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
)

// certificate returns the one that a node proves the identity by, from its dump.
func (n *node) certificate(id identity.Workload) *x509.Certificate {
	n.t.Helper()
	_, text := n.get("administration", "/config_dump")
	var dump struct {
		Certificates []struct {
			Identity  string
			CertChain []struct{ PEM string }
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		n.t.Fatal(err)
	}
	for _, c := range dump.Certificates {
		if c.Identity != id.String() || len(c.CertChain) == 0 {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(c.CertChain[0].PEM)
		if err != nil {
			n.t.Fatal(err)
		}
		block, _ := pem.Decode(raw)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			n.t.Fatal(err)
		}
		return cert
	}
	n.t.Fatalf("no certificate of %s in %s", id, text)
	return nil
}

// replaceFile puts a file in another's place in one step.
func replaceFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestRevokedCertificatesEndTunnelsAndOpenNone(t *testing.T) {
	for _, test := range []struct {
		name, revoked, reporter string
	}{
		{"the client's", "client", "destination"},
		{"the server's", "server", "source"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMesh(t)
			path := filepath.Join(t.TempDir(), "crl.pem")
			m.env = []string{"CRL_PATH=" + path}
			m.up(m.client, m.server)
			m.server.serve(t, 8080)
			to := netip.AddrPortFrom(m.server.v4, 8080)
			m.server.node.waitLog("there are no revocation lists yet")
			live := mustCall(t, m.client, to)

			nodes := map[string]*node{"client": m.client.node, "server": m.server.node}
			cert := nodes[test.revoked].certificate(m.ca.Identity("demo", test.revoked))
			replaceFile(t, path, m.ca.Revoke(time.Now().Add(time.Hour), cert))
			for _, n := range nodes {
				n.waitLog("revocation lists are in force", "lists=1", "revoked=1")
			}
			if _, err := live.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a connection over a tunnel of before ends with %v, want a reset", err)
			}
			if _, conn, err := m.client.call(to); err == nil {
				conn.Close()
				t.Fatal("a new tunnel is made with a revoked certificate")
			}
			judge := map[string]*node{"source": m.client.node, "destination": m.server.node}[test.reporter]
			reporter := `reporter="` + test.reporter + `"`
			judge.eventually("count the refusal", func() bool {
				return judge.metric("istio_crl_policy_rejections_total", reporter) >= 1 &&
					judge.metric("istio_tcp_connections_failed_total", reporter, `response_flags="CERT_REVOKED"`) >= 1
			})
			judge.waitLog("connection complete", "was revoked by")
			judge.waitLog("was revoked by", "spiffe://cluster.local/ns/demo/sa/"+test.revoked, "serial number "+cert.SerialNumber.String())

			replaceFile(t, path, "broken")
			judge.waitLog("error", "revocation lists not taken; the last good ones stay in force")
			replaceFile(t, path, m.ca.Revoke(time.Now().Add(-time.Hour)))
			judge.waitLog("warn", "revocation list is outdated")
			mustCall(t, m.client, to).Close()
		})
	}
}

func TestBrokenRevocationListsPreventTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crl.pem")
	replaceFile(t, path, "no list")
	m := newMesh(t)
	m.env = []string{"CRL_PATH=" + path}
	err := serve(drain.New(time.Second), m.config(m.server), "test", &logBuffer{})
	if err == nil || !strings.Contains(err.Error(), "CRL_PATH") || !strings.Contains(err.Error(), path) {
		t.Errorf("it begins with %v", err)
	}
}

// The list is checked together with the chain: a client of another trust domain still has to lead to the roots.
func TestClientsOfListedTrustDomains(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"TRUST_DOMAINS=east.example,west.example"}
	m.up(m.server)
	m.server.serve(t, 8080)
	for _, test := range []struct {
		domain  string
		trusted bool
		want    int // 0: no tunnel
	}{
		{"cluster.local", true, 200}, {"west.example", true, 200}, {"north.example", true, 0}, {"west.example", false, 0},
	} {
		id, err := identity.New(test.domain, "demo", "outside")
		if err != nil {
			t.Fatal(err)
		}
		credential := m.ca.Credential(id)
		if !test.trusted {
			credential = testca.New(t, test.domain).Credential(id)
			credential.Roots = m.ca.Credential(id).Roots // the server is not in doubt
		}
		if status, err := m.ask(m.asker(m.outside.Netns, credential), m.server, "10.91.0.2:8080"); status != test.want {
			t.Errorf("%s, of our authority: %v: answered %d, %v; want %d", test.domain, test.trusted, status, err, test.want)
		}
	}
	m.server.node.waitLog("connection complete", `src.identity="spiffe://west.example/ns/demo/sa/outside"`)
	m.server.node.waitLog("connection failed", "north.example", "east.example, west.example")
}

func TestNodesWithPostQuantumPolicyTalk(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"COMPLIANCE_POLICY=pqc"}
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080)).Close()
	m.server.node.waitLog("connection complete", `src.identity="spiffe://cluster.local/ns/demo/sa/client"`)
}

// A new root comes with the control plane's own file long before certificates are renewed.
func TestNewRootsAreTakenAtOnce(t *testing.T) {
	t.Parallel() // it waits for seconds
	m := newMesh(t)
	m.up(m.server)
	before := len(m.istiod.Signed())
	text, err := os.ReadFile(m.istiod.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	replaceFile(t, m.istiod.RootFile(), string(text)) // the same again
	m.ca.Rotate()
	replaceFile(t, m.istiod.RootFile(), string(text)+m.ca.RootsPEM())
	const changed = "the control plane's roots have changed"
	m.server.node.waitLog(changed)
	deadline := time.Now().Add(2 * patience)
	for tick := time.NewTicker(10 * time.Millisecond); len(m.istiod.Signed()) == before; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the certificate isn't fetched anew")
		}
	}
	replaceFile(t, m.istiod.RootFile(), string(text)+m.ca.RootsPEM())
	if err := os.Remove(m.istiod.RootFile()); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, m.istiod.RootFile(), string(text))
	m.server.node.eventually("see the second change", func() bool { return strings.Count(m.server.node.log.String(), changed) >= 2 })
	if n := strings.Count(m.server.node.log.String(), changed); n != 2 {
		t.Errorf("%d changes are seen, want 2: files of the same content are none", n)
	}
}
