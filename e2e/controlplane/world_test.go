package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// The world's system namespace and the accounts in it.
const (
	system  = "istio-system"
	proxies = "ztunnel" // of node proxies
)

// slow is the patience with things that take no time on an idle machine.
const slow = 30 * time.Second

// world is an API server that nobody else has while a test runs, and the control planes that the test starts.
type world struct {
	*apiserver.Server
	t   *testing.T
	dir string
}

// worldSpec says what is there from the start of an API server of a test's own.
type worldSpec struct {
	CRDs        []apiserver.Definitions
	Controllers []string // of kube-controller-manager
	Audit       bool
	Lists       bool // see apiserver.Config
}

// everything is all that a cluster usually has.
func everything() worldSpec {
	return worldSpec{
		CRDs:        []apiserver.Definitions{apiserver.IstioCRDs, apiserver.GatewayCRDs},
		Controllers: []string{"namespace-controller", "garbage-collector-controller"},
	}
}

// serve starts an API server that keeps its data in a folder.
func (spec worldSpec) serve(ctx context.Context, dir string) (*apiserver.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	server, err := apiserver.Start(ctx, apiserver.Config{Dir: dir, Controllers: spec.Controllers, Audit: spec.Audit, Lists: spec.Lists})
	if err != nil {
		return nil, err
	}
	if err := server.Install(ctx, spec.CRDs...); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server, nil
}

// newWorld has an API server with everything that a test before may have had, too: what that made is gone.
func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	lent := servers.take(t)
	t.Cleanup(func() { servers.put(t, lent) }) // after the control planes have ended
	return (&world{t: t, dir: t.TempDir(), Server: lent.Server}).settle()
}

// ownWorld has an API server that the test may do anything to, or that isn't as others.
func ownWorld(t *testing.T, spec worldSpec) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, dir: t.TempDir()}
	var err error
	if w.Server, err = spec.serve(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	})
	return w.settle()
}

// settle makes what every control plane needs.
func (w *world) settle() *world {
	w.t.Helper()
	w.apply(`
{apiVersion: v1, kind: ServiceAccount, metadata: {name: istiod, namespace: istio-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: ztunnel, namespace: istio-system}}
`)
	return w
}

// of is the world for a part of the test.
func (w *world) of(t *testing.T) *world {
	part := *w
	part.t = t
	return &part
}

// apply is like kubectl apply, with statuses.
func (w *world) apply(yaml string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), slow)
	defer cancel()
	if err := w.Apply(ctx, yaml); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete(yaml string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), slow)
	defer cancel()
	if err := w.Delete(ctx, yaml); err != nil {
		w.t.Fatal(err)
	}
}

// pod is a running pod of an account with the same name, as YAML. Enrolled ones have the annotation of the node agent.
func pod(namespace, name, node, ip string, enrolled bool) string {
	annotations := ""
	if enrolled {
		annotations = `ambient.istio.io/redirection: enabled`
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}, annotations: {%[5]s}}
spec: {nodeName: %[3]s, serviceAccountName: %[2]s, containers: [{name: app, image: app, ports: [{containerPort: 8080}]}]}
status: {phase: Running, podIP: %[4]s, podIPs: [{ip: %[4]s}], conditions: [{type: Ready, status: "True"}]}
`, namespace, name, node, ip, annotations)
}

// eventually repeats a check until it passes.
func (w *world) eventually(what string, check func(context.Context) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), slow)
	defer cancel()
	w.await(ctx, what, check)
}

func (w *world) await(ctx context.Context, what string, check func(context.Context) error) {
	w.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var last error // but for the one that only says that the time is over
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			w.t.Fatalf("waiting for %s: %v", what, last)
		}
	}
}

// roots are what proxies trust: what the control plane distributes, or while it doesn't, what it keeps.
func (w *world) roots(ctx context.Context) (*x509.CertPool, error) {
	text := ""
	published, err := w.Client().CoreV1().ConfigMaps(system).Get(ctx, "istio-ca-root-cert", metav1.GetOptions{})
	if err == nil {
		text = published.Data["root-cert.pem"]
	} else {
		secret, err := w.Client().CoreV1().Secrets(system).Get(ctx, "istio-ca-secret", metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("roots of the control plane: %w", err)
		}
		text = string(secret.Data["ca-cert.pem"])
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		return nil, fmt.Errorf("no certificate in %q", text)
	}
	return pool, nil
}

// identity makes the pod of a node's ztunnel, and a token bound to it.
func (w *world) identity(node string) delta.Identity {
	w.t.Helper()
	name := proxies + "-" + node
	w.apply(fmt.Sprintf(`
{apiVersion: v1, kind: Node, metadata: {name: %[1]s}}
---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: istio-system, labels: {app: ztunnel}}
spec: {nodeName: %[1]s, serviceAccountName: ztunnel, hostNetwork: true, containers: [{name: istio-proxy, image: ztunnel}]}
status: {phase: Running, podIP: 192.0.2.1, podIPs: [{ip: 192.0.2.1}], conditions: [{type: Ready, status: "True"}]}
`, node, name))
	return delta.Identity{Pod: name, Namespace: system, Account: proxies, Node: node, Token: w.token(apiserver.Token{Pod: name})}
}

// token is one for the control plane, of the node proxies' account unless another is named.
func (w *world) token(t apiserver.Token) string {
	w.t.Helper()
	if t.Account == "" {
		t.Namespace, t.Account = system, proxies
	}
	if t.Audiences == nil {
		t.Audiences = []string{"istio-ca"}
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), slow)
	defer cancel()
	token, err := w.Token(ctx, t)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// lastPort counts the ports that were found.
var lastPort atomic.Uint32

// freeAddr finds a port that nobody listens on, and that no client gets until somebody does: it isn't of those that the kernel gives away.
func freeAddr(t *testing.T) string {
	t.Helper()
	const first, count = 20000, 12000
	for range count {
		port := first + (uint32(os.Getpid())*101+lastPort.Add(1))%count
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			listener.Close()
			return listener.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// get asks for a page.
func get(ctx context.Context, url string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	return response.StatusCode, strings.TrimSpace(string(body)), err
}
