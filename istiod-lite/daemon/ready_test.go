package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/config"
	"github.com/tulle-mesh/tulle/istiod-lite/daemon"
)

// cluster is an API server with nothing but a Secret in it, which may be forbidden, and a webhook's configuration with a bundle, if any.
type cluster struct {
	lock      sync.Mutex
	forbidden string // the last part of paths that are
	secret    []byte
	bundle    string
}

// trusts installs a configuration of the webhook; with none of its roots it is as charts install it. "" takes it away.
func (c *cluster) trusts(bundle string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.bundle = bundle
}

// root is what the Secret has.
func (c *cluster) root() string {
	c.lock.Lock()
	defer c.lock.Unlock()
	var secret struct{ Data map[string]string }
	_ = json.Unmarshal(c.secret, &secret)
	return secret.Data["ca-cert.pem"]
}

func (c *cluster) forbid(resource string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.forbidden = resource
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.lock.Lock()
	defer c.lock.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, secrets, _ := strings.Cut(r.URL.Path, "/secrets")
	switch isSecret := strings.Contains(r.URL.Path, "/secrets"); {
	case c.forbidden != "" && strings.HasSuffix(r.URL.Path, c.forbidden):
		refuse(w, http.StatusForbidden, "Forbidden")
	case isSecret && r.Method == http.MethodPost:
		c.secret, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(c.secret)
	case isSecret && secrets != "" && c.secret != nil:
		_, _ = w.Write(c.secret)
	case c.bundle != "" && strings.HasSuffix(r.URL.Path, "/validatingwebhookconfigurations/istiod-default-validator"):
		fmt.Fprintf(w, `{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
			"metadata": {"name": "istiod-default-validator"}, "webhooks": [{"clientConfig": {"caBundle": %q}}]}`, c.bundle)
	default:
		refuse(w, http.StatusNotFound, "NotFound")
	}
}

func refuse(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "that is " + reason,
	})
}

// inCluster runs a control plane of a cluster until the test ends, and returns what it says at a path.
func inCluster(t *testing.T, c *cluster, logs io.Writer) (get func(path string) (int, string), stop func() error) {
	t.Helper()
	api := httptest.NewServer(c)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a}}], clusters: [{name: a, cluster: {server: %q}}]}", api.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	debug := free(t)
	cfg, err := config.Parse([]string{
		"--kubeconfig", kubeconfig, "--tls-address", "127.0.0.1:0", "--debug-address", debug, "--webhook-address", "127.0.0.1:0", "--cacerts=", "--drain-time", "0s",
	}, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- daemon.Run(ctx, cfg, "v1", slog.New(slog.NewTextHandler(logs, nil))) }()
	stop = sync.OnceValue(func() error {
		cancel(fmt.Errorf("the test is over"))
		defer api.Close()
		defer api.CloseClientConnections()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			return fmt.Errorf("it doesn't end within %s", patience)
		}
	})
	t.Cleanup(func() { _ = stop() })
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(path string) (int, string) {
		response, err := client.Get("http://" + debug + path)
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		var body bytes.Buffer
		_, _ = body.ReadFrom(response.Body)
		return response.StatusCode, body.String()
	}, stop
}

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// readiness waits for what a control plane says of it.
func readiness(t *testing.T, get func(path string) (int, string), code int, want string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		have, text := get("/ready")
		if have == code && strings.Contains(text, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("want %d %q, have %d %q", code, want, have, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// As somebody's first `kubectl apply` would be refused before.
func TestNobodyIsReadyBeforeTheAPIServerTrustsTheWebhook(t *testing.T) {
	t.Parallel()
	c := &cluster{}
	c.trusts("b3RoZXJz")
	get, _ := inCluster(t, c, io.Discard)
	readiness(t, get, 503, "not ready, pending: ValidatingWebhookConfiguration istiod-default-validator: its caBundle isn't our roots yet")
	c.trusts(c.root())
	readiness(t, get, 200, "ready\n")
	c.trusts("b3RoZXJz") // a later change is the leader's business
	readiness(t, get, 200, "ready\n")
}

func TestWhoWaitsForItsAuthoritySaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	c, logs := &cluster{forbidden: "/secrets/istio-ca-secret"}, &lines{}
	get, stop := inCluster(t, c, logs)
	says := func(code int, want string) { t.Helper(); readiness(t, get, code, want) }
	says(503, "not ready, pending: authority in Secret istio-system/istio-ca-secret: that is Forbidden; apply deploy/rbac/istiod-lite.yaml")
	for path, want := range map[string]string{"/version": "v1-", "/metrics": `istio_build{component="pilot"`, "/healthz": "ok", "/debug/syncz": "[]", "/debug/configz": "{}"} {
		if code, text := get(path); code != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %.200s", path, code, text)
		}
	}
	c.forbid("/pods")
	says(503, "not ready, pending: first read of http://127.0.0.1:")
	says(503, "list pods: that is Forbidden; apply deploy/rbac/istiod-lite.yaml")
	c.forbid("")
	says(200, "ready\n")
	// Whoever is absent is looked for again and again.
	c.forbid("/pods")
	says(200, "ready\nlagging: Pod for ")
	c.forbid("")
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{`msg=draining reason="the test is over"`, "msg=stopped took="} {
		if !logs.has(want) {
			t.Errorf("no %q in the log", want)
		}
	}
}
