package node

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// forwarded makes an address inside the fabric reachable for this process, by a port of its own loopback.
func forwarded(t *testing.T, c *demo.Cluster, to netip.AddrPort) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			beyond, err := c.Dial(context.Background(), world, to)
			if err != nil {
				near.Close()
				continue
			}
			go func() {
				io.Copy(beyond, near)
				beyond.Close()
			}()
			go func() {
				io.Copy(near, beyond)
				near.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// controlPlane configures a client of istiod-lite that shows a token (text, or a file's name).
func controlPlane(t *testing.T, c *demo.Cluster, token string) controlplane.Config {
	t.Helper()
	return controlplane.Config{
		Address: forwarded(t, c, c.ControlPlane()), RootCA: c.RootFile(), ServerName: demo.ControlPlaneName, Token: token, ClusterID: "Kubernetes",
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// certificate asks istiod-lite for a certificate of a pod's identity, as the ztunnel of a node would.
func certificate(t *testing.T, c *demo.Cluster, node string, id identity.Workload) (*mtls.Credential, error) {
	t.Helper()
	conn, err := controlplane.Dial(controlPlane(t, c, c.TokenFile(node)), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URI()}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	chain, err := certs.NewIstioCA(conn, true).Sign(ctx, id, string(csr), time.Hour)
	if err != nil {
		return nil, err
	}
	return mtls.NewCredential(key, chain)
}

// workload is the identity of a pod of namespace app.
func workload(t *testing.T, trustDomain, account string) identity.Workload {
	t.Helper()
	id, err := identity.New(trustDomain, "app", account)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// connect opens a tunnel to a pod with a certificate, and asks for an authority.
func connect(t *testing.T, c *demo.Cluster, credential *mtls.Credential, pod, authority string) (net.Conn, error) {
	t.Helper()
	client := byhand.New(t, credential, func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) { return c.Dial(ctx, world, to) })
	return client.Connect(t, workload(t, "cluster.local", pod), podAddr(c, pod, 0, demo.HBONEPort), authority)
}

// A client that speaks the tunnel's protocol and has a real certificate gets only to the pod that it dialled.
func TestTunnelLeadsOnlyToItsPod(t *testing.T) {
	c := shared.use(t)
	credential, err := certificate(t, c, "node1", workload(t, "cluster.local", client))
	if err != nil {
		t.Fatal(err)
	}
	at := func(addr netip.Addr, port uint16) string { return netip.AddrPortFrom(addr, port).String() }
	own := c.PodAddrs(far)[0]
	cases := []struct {
		name, authority string
		status          int
	}{
		{"the pod itself", at(own, web), 200},
		{"another pod of the mesh", at(c.PodAddrs(near)[0], web), 400},
		{"a pod outside of the mesh", at(c.PodAddrs(outpost)[0], web), 400},
		{"a service's address", at(c.VIPs(far)[0], 80), 400},
		{"the world outside", at(demo.FabricAddrs()[0], web), 400},
		{"its loopback", "127.0.0.1:8080", 400},
		{"an unknown name", "no.such.service:80", 503},
		{"a port that nobody listens on", at(own, 9999), 503},
		{"the tunnel's own port", at(own, 15008), 503},
		{"the outbound port", at(own, 15001), 503},
		{"the inbound port", at(own, 15006), 503},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := connect(t, c, credential, far, tc.authority)
			if tc.status == 200 {
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
				if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "backend far") {
					t.Errorf("got %q, %v", answer, err)
				}
				return
			}
			var refused *hbone.StatusError
			if !errors.As(err, &refused) || refused.Status != tc.status {
				t.Errorf("got %v, want status %d", err, tc.status)
			}
		})
	}
}

// authority is the cluster's own signing key, which no attacker has: it makes certificates wrong in just one respect.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func clusterAuthority(t *testing.T, c *demo.Cluster) authority {
	t.Helper()
	dir := filepath.Join(filepath.Dir(c.RootFile()), "authority")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca-cert.pem"), filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return authority{pair.Leaf, pair.PrivateKey.(crypto.Signer)}
}

// sign makes a client certificate with any identity and life.
func (a authority) sign(t *testing.T, uri *url.URL, from, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if uri != nil {
		template.URIs = []*url.URL{uri}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
}

// stray is an authority that the mesh doesn't know.
func stray(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

// Who can't prove an identity of the mesh's own trust domain doesn't get through the handshake.
func TestTunnelNeedsAValidCertificate(t *testing.T) {
	c := shared.use(t)
	ours, now := clusterAuthority(t, c), time.Now()
	good := workload(t, "cluster.local", client).URI()
	cases := []struct {
		name  string
		cert  *tls.Certificate
		works bool
	}{
		{"a good one", new(ours.sign(t, good, now.Add(-time.Hour), now.Add(time.Hour))), true},
		{"another trust domain", new(ours.sign(t, workload(t, "elsewhere.example", client).URI(), now.Add(-time.Hour), now.Add(time.Hour))), false},
		{"expired", new(ours.sign(t, good, now.Add(-2*time.Hour), now.Add(-time.Hour))), false},
		{"not yet valid", new(ours.sign(t, good, now.Add(time.Hour), now.Add(2*time.Hour))), false},
		{"no identity", new(ours.sign(t, nil, now.Add(-time.Hour), now.Add(time.Hour))), false},
		{"another authority", new(stray(t).sign(t, good, now.Add(-time.Hour), now.Add(time.Hour))), false},
		{"none at all", nil, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			raw := dial(t, c, world, podAddr(c, far, 0, demo.HBONEPort))
			config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
			if tc.cert != nil {
				config.Certificates = []tls.Certificate{*tc.cert}
			}
			conn := tls.Client(raw, config)
			// In TLS 1.3 the client is done before the server has judged it: the first read tells.
			err := conn.Handshake()
			if err == nil {
				_, err = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			}
			frame := make([]byte, 9)
			if err == nil {
				_, err = io.ReadFull(conn, frame)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection hangs: %v", err)
			} else if works := err == nil; works != tc.works {
				t.Errorf("the tunnel opens: %v (%v), want %v", works, err, tc.works)
			}
		})
	}
}

// Older TLS isn't spoken on the tunnel's port.
func TestTunnelRefusesOldTLS(t *testing.T) {
	c := shared.use(t)
	cert := clusterAuthority(t, c).sign(t, workload(t, "cluster.local", client).URI(), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	raw := dial(t, c, world, podAddr(c, far, 0, demo.HBONEPort))
	conn := tls.Client(raw, &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
	})
	if err := conn.Handshake(); err == nil {
		t.Errorf("the tunnel speaks TLS version %#x", conn.ConnectionState().Version)
	}
}

// A ztunnel gets certificates for pods of its own node only.
func TestCertificatesAreForPodsOfTheNode(t *testing.T) {
	c := shared.use(t)
	for _, tc := range []struct {
		node, pod string
		granted   bool
	}{
		{"node1", client, true}, {"node1", near, true}, {"node2", far, true},
		{"node1", far, false}, {"node2", client, false}, {"node1", "nobody", false},
	} {
		t.Run(fmt.Sprintf("%s asks for %s", tc.node, tc.pod), func(t *testing.T) {
			credential, err := certificate(t, c, tc.node, workload(t, "cluster.local", tc.pod))
			if granted := err == nil; granted != tc.granted {
				t.Errorf("granted: %v, %v", granted, err)
			}
			if tc.granted && credential.Identity.ServiceAccount() != tc.pod {
				t.Errorf("the certificate is for %s", credential.Identity)
			}
		})
	}
}
