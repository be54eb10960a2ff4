package daemon_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/tulle-mesh/tulle/istiod-lite/config"
	"github.com/tulle-mesh/tulle/istiod-lite/daemon"
)

// patience bounds every wait of these tests.
const patience = 10 * time.Second

// world is a folder, whose control plane may be started and stopped.
type world struct {
	t    *testing.T
	dir  string
	key  ed25519.PrivateKey
	logs *lines

	daemon *daemon.Daemon
	stop   func()
}

// lines is a log that can be searched while it is written.
type lines struct {
	lock sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.text.Write(p)
}

func (l *lines) has(text string) bool {
	l.lock.Lock()
	defer l.lock.Unlock()
	return strings.Contains(l.text.String(), text)
}

// newWorld makes a folder with a pod frontend on node1 and a pod backend on node2.
func newWorld(t *testing.T) *world {
	t.Parallel()
	w := &world{t: t, dir: t.TempDir(), logs: &lines{}}
	var public ed25519.PublicKey
	var err error
	if public, w.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.writeKey(public)
	w.write("objects/pods.yaml", podYAML("frontend", "node1", "10.1.0.1")+"---\n"+podYAML("backend", "node2", "10.1.0.2"))
	return w
}

func podYAML(name, node, ip string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: demo, labels: {app: %s}}
spec: {nodeName: %s, serviceAccountName: %s, containers: [{name: app, image: app}]}
status: {phase: Running, podIPs: [{ip: %s}], conditions: [{type: Ready, status: "True"}]}
`, name, name, node, name, ip)
}

func (w *world) writeKey(public crypto.PublicKey) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("token-key.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

// write replaces a file in one step, as a careful editor does.
func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// start runs a control plane over the folder until the test ends, or stop is called.
func (w *world) start(args ...string) {
	w.t.Helper()
	cfg, err := config.Parse(append([]string{
		"--source", "files", filepath.Join(w.dir, "objects"), "--tls-address", "127.0.0.1:0", "--debug-address", "127.0.0.1:0",
		"--cacerts=",
	}, args...), nil, io.Discard)
	if err != nil {
		w.t.Fatal(err)
	}
	w.daemon, err = daemon.New(w.t.Context(), cfg, "v1.2.3-test", slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.daemon.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Error(err)
			}
		case <-time.After(patience):
			w.t.Error("the control plane doesn't end")
		}
	})
	w.t.Cleanup(w.stop)
}

// ready waits until the control plane serves.
func (w *world) ready() {
	w.t.Helper()
	w.eventually("ready", func() bool { code, _ := w.get("/ready"); return code == http.StatusOK })
}

func (w *world) get(path string) (int, string) {
	w.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + w.daemon.DebugAddr().String() + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// eventually looks again and again, since what it waits for gives no notice.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("not %s after %s; log:\n%.5000s", what, patience, w.logs.text.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// claims are those of a good token of node1's ztunnel.
func claims() map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": "test", "sub": "system:serviceaccount:istio-system:ztunnel", "aud": []string{"istio-ca"},
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "node": "node1", "account": "istio-system/ztunnel",
	}
}

// token signs claims; change alters them before.
func (w *world) token(change func(map[string]any)) string {
	w.t.Helper()
	return sign(w.t, w.key, jose.EdDSA, change)
}

func sign(t *testing.T, key any, algorithm jose.SignatureAlgorithm, change func(map[string]any)) string {
	t.Helper()
	all := claims()
	if change != nil {
		change(all)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// roots are what clients trust.
func (w *world) roots() *x509.CertPool {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "ca", "root-cert.pem"))
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		w.t.Fatal("no root")
	}
	return pool
}

// dial connects as ztunnel does.
func (w *world) dial() *grpc.ClientConn {
	w.t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+w.daemon.XDSAddr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: w.roots(), ServerName: "istiod.istio-system.svc", MinVersion: tls.VersionTLS13,
	})), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(200<<20)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { connection.Close() })
	return connection
}

// as puts a token on calls; an empty one puts none.
func as(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// csr makes a certificate request; its own names must not matter.
func csr(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// What a request says of itself decides nothing.
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "istiod.istio-system.svc"}, DNSNames: []string{"evil.example.com"}, IPAddresses: []net.IP{{10, 0, 0, 1}},
		EmailAddresses: []string{"root@example.com"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/istio-system/sa/istiod"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// newDaemon makes a control plane that isn't expected to come up.
func newDaemon(w *world) (*daemon.Daemon, error) {
	cfg, err := config.Parse([]string{
		"--source", "files", filepath.Join(w.dir, "objects"), "--tls-address", "127.0.0.1:0", "--debug-address", "127.0.0.1:0",
		"--cacerts", filepath.Join(w.dir, "cacerts"),
	}, nil, io.Discard)
	if err != nil {
		w.t.Fatal(err)
	}
	return daemon.New(w.t.Context(), cfg, "v1.2.3-test", slog.New(slog.DiscardHandler))
}
