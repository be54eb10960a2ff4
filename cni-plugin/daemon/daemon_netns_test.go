package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/cni-plugin/config"
	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/status"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a simulated node: a folder of objects, and at times an agent.
type node struct {
	t    testing.TB
	dir  string
	cfg  config.Config
	logs *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func newNode(t testing.TB) *node {
	t.Helper()
	root := t.TempDir()
	n := &node{t: t, dir: filepath.Join(root, "objects"), logs: new(lockedBuffer)}
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.cfg = config.Default()
	n.cfg.Dir, n.cfg.Node, n.cfg.Status = n.dir, "node1", filepath.Join(root, "status")
	n.cfg.ZDSSocket, n.cfg.PluginSocket = filepath.Join(root, "ztunnel.sock"), filepath.Join(root, "pluginevent.sock")
	n.cfg.HealthAddr, n.cfg.WithdrawGrace, n.cfg.DrainTimeout = freeAddress(t), 50*time.Millisecond, 5*time.Second
	n.cfg.NodeNetns = netns.New(t, "tulle-agent-test").Path
	n.cfg.LogLevel, n.cfg.Engine, n.cfg.Pins = "info,enroll=debug", "nft", ""
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("agent's log:\n%s", n.logs.b.String())
		}
	})
	n.namespace("ambient")
	return n
}

func freeAddress(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// start runs an agent; stop ends it as SIGTERM does.
func (n *node) start() (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, n.cfg, "v1.2.3", n.logs) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				n.t.Errorf("agent: %v", err)
			}
		case <-time.After(patience):
			n.t.Error("the agent doesn't end")
		}
	})
	n.t.Cleanup(stop)
	return stop
}

func (n *node) write(file, text string) {
	n.t.Helper()
	temporary := filepath.Join(n.t.TempDir(), "new")
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(n.dir, file)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) namespace(mode string) {
	n.write("namespace.yaml", fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: demo, labels: {istio.io/dataplane-mode: %q}}}\n", mode))
}

// pod writes a pod that lives at a path; "" leaves that to the runtime.
func (n *node) pod(name, path, mode string, annotations ...string) {
	if path != "" {
		annotations = append(annotations, "tulle.dev/netns: "+path)
	}
	n.write(name+".yaml", fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: demo, labels: {istio.io/dataplane-mode: %q}, annotations: {%s}}, spec: {nodeName: node1, serviceAccountName: shop, containers: [{name: app, image: none}]}}`+"\n", name, mode, strings.Join(annotations, ", ")))
}

func (n *node) statusFile() string { return filepath.Join(n.cfg.Status, "node1.yaml") }

// published is the status file without its layout.
func (n *node) published() string {
	data, err := os.ReadFile(n.statusFile())
	if err != nil {
		return "nothing"
	}
	_, pods, _ := strings.Cut(string(data), "pods:")
	return strings.Join(strings.Fields(pods), " ")
}

// nft reads what the agent, whose proxies hand no listeners over here, has made.
func (n *node) nft() *redirect.Engines {
	n.t.Helper()
	engines, err := redirect.New(redirect.Config{Engine: string(redirect.NFT), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		n.t.Fatal(err)
	}
	return engines
}

// until waits for a sight that the namespace and the status file give together.
func (n *node) until(ns *netns.Namespace, want string) {
	n.t.Helper()
	look := func() string {
		found, err := n.nft().Current(ns.Netns)
		if err != nil {
			return err.Error()
		}
		return found.String() + ", " + n.published()
	}
	n.eventually(want, look)
}

func (n *node) eventually(want string, look func() string) {
	n.t.Helper()
	deadline := time.Now().Add(patience)
	for look() != want {
		if time.Now().After(deadline) {
			n.t.Fatalf("see %q, wait for %q", look(), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const (
	in      = `capture, "demo/cart": {uid: "demo/cart", state: enabled}`
	out     = "removed, {}"
	pending = `removed, "demo/cart": {uid: "demo/cart", state: pending}`
)

func newPod(t testing.TB) *netns.Namespace { return netns.New(t, "tulle-agent-test") }

func TestLabelsComeAndGo(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	n.start()
	n.until(ns, pending)
	p := fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	n.namespace("")
	n.until(ns, out)
	n.pod("cart", ns.Path, "ambient")
	n.until(ns, in)
	n.namespace("ambient")
	n.pod("cart", ns.Path, "none")
	n.until(ns, out)
	want := []string{"add demo/cart demo/cart (shop)", "snapshot", "add demo/cart demo/cart (shop)", "del demo/cart", "add demo/cart demo/cart (shop)", "del demo/cart"}
	if diff := cmp.Diff(want, p.Log()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestAnnotationsSayHowAPodIsCaptured(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "", "ambient.istio.io/bypass-inbound-capture: 'true'")
	n.start()
	p := fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	const enabled = `, "demo/cart": {uid: "demo/cart", state: enabled}`
	n.until(ns, "capture without inbound"+enabled)
	n.pod("cart", ns.Path, "", "istio.io/reroute-virtual-interfaces: 'tap0, docker0'", "ambient.istio.io/dns-capture: 'true'")
	n.until(ns, "capture with DNS and of docker0,tap0"+enabled)
	n.pod("cart", ns.Path, "")
	n.until(ns, "capture"+enabled)
	if log := strings.Join(p.Log(), " "); strings.Contains(log, "del") {
		t.Errorf("the pod was out meanwhile: %s", log)
	}
}

func TestABrokenFileChangesNothing(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	n.start()
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	n.write("cart.yaml", "apiVersion: v1\nkind: [")
	n.write("other.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: other}}")
	n.eventually("yes", func() string {
		n.logs.mu.Lock()
		defer n.logs.mu.Unlock()
		return map[bool]string{true: "yes"}[strings.Contains(n.logs.b.String(), "cart.yaml")]
	})
	n.until(ns, in)
}

func TestAnAgentsRestartWithdrawsNothing(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	stop := n.start()
	p := fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	watch, endWatch := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for watch.Err() == nil {
			if got := n.published(); got != `"demo/cart": {uid: "demo/cart", state: enabled}` {
				t.Errorf("published while the agent restarts: %q", got)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	stop()
	<-p.Done()
	n.until(ns, in)
	n.start()
	p = fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.eventually("add demo/cart demo/cart (shop) snapshot", func() string { return strings.Join(p.Log(), " ") })
	n.until(ns, in)
	endWatch()
	watcher.Wait()
}

func TestWhatChangedWhileTheAgentWasDown(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	stop := n.start()
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	stop()
	n.namespace("")
	n.start()
	p := fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, out)
	if log := p.Log(); log[len(log)-1] != "del demo/cart" {
		t.Errorf("requests %q", log)
	}
}

func TestDrainingGoesOnAfterAnAgentsRestart(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	stop := n.start()
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	app, proxied := hold(t, ns)
	n.namespace("")
	n.until(ns, "draining, {}")
	stop()
	n.until(ns, "draining, {}")
	n.start()
	p := fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.eventually("add demo/cart demo/cart (shop) snapshot", func() string { return strings.Join(p.Log(), " ") }) // without it, the proxy would cut the connection
	n.until(ns, "draining, {}")
	if _, err := app.Write([]byte("x")); err != nil {
		t.Errorf("the connection died: %v", err)
	}
	app.Close()
	proxied.Close()
	n.until(ns, out)
}

// hold makes a captured connection: the app's end, and the one that the proxy would have.
func hold(t *testing.T, ns *netns.Namespace) (app, proxied *net.TCPConn) {
	t.Helper()
	listener, err := ns.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("0.0.0.0:15001"), Mark: socket.Mark})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	neighbour := newPod(t)
	netns.Connect(ns, neighbour, "eth0", []netip.Prefix{netip.MustParsePrefix("10.79.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.79.0.2/24")})
	if app, err = ns.Dial(context.Background(), netip.MustParseAddrPort("10.79.0.2:80"), socket.DialConfig{Timeout: patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { app.Close() })
	if proxied, err = listener.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxied.Close() })
	return app, proxied
}

// Peers would speak plain text to a pod that they had tunnels to, if it were withdrawn until it's enrolled anew.
func TestARebootedNodesPodsStayPublished(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	n.pod("leaver", newPod(t).Path, "none")
	if err := os.MkdirAll(n.cfg.Status, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.statusFile(), []byte(`{node: node1, pods: {
		"demo/cart": {uid: demo/cart, state: enabled}, "demo/leaver": {uid: demo/leaver, state: enabled}, "demo/gone": {uid: demo/gone, state: enabled},
	}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.until(ns, `removed, "demo/cart": {uid: "demo/cart", state: enabled}`)
	n.eventually("yes", func() string {
		_, page := n.get("/debug/pods")
		return map[bool]string{true: "yes"}[strings.Contains(page, "is ztunnel running on this node?")]
	})
	n.until(ns, `removed, "demo/cart": {uid: "demo/cart", state: enabled}`)
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	if _, page := n.get("/metrics"); strings.Contains(page, "tulle_cni_repairs_total 1") {
		t.Error("a new namespace is taken for a damaged one")
	}
}

func TestAPodThatMovesIsEnrolledWhereItIs(t *testing.T) {
	n, first, second := newNode(t), newPod(t), newPod(t)
	link := filepath.Join(t.TempDir(), "netns")
	point := func(to string) {
		if err := os.Symlink(to, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	point(first.Path)
	n.pod("cart", link, "")
	n.start()
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(first, in)
	point(second.Path) // the same path, another namespace: the sandbox was made anew
	n.until(second, in)
	third := newPod(t)
	n.pod("cart", third.Path, "")
	n.until(third, in)
}

func TestANamespaceThatIsGoneIsWithdrawnAndLetGo(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	n.start()
	p := fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	ns.Remove()
	n.eventually("{}", n.published)
	n.eventually("del demo/cart", func() string { log := p.Log(); return log[len(log)-1] })
}

func TestAPodDeletedFromTheFolderLeavesTheMesh(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	n.start()
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	if err := os.Remove(filepath.Join(n.dir, "cart.yaml")); err != nil {
		t.Fatal(err)
	}
	n.until(ns, out)
}

// cni executes the real plugin.
func (n *node) cni(binary, verb, path string) (string, error) {
	cmd := exec.Command(binary)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_NETNS=" + path, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_ARGS=K8S_POD_NAMESPACE=demo;K8S_POD_NAME=cart",
	}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"tulle-cni","cni_agent_run_dir":%q,"prevResult":{"cniVersion":"1.1.0","ips":[]}}`, filepath.Dir(n.cfg.PluginSocket)))
	var output bytes.Buffer
	cmd.Stdout = &output
	err := cmd.Run()
	return output.String(), err
}

func TestTheRuntimeAddsChecksAndDeletes(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "tulle-cni")
	if text, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/tulle-mesh/tulle/cni-plugin").CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, text)
	}
	n, ns := newNode(t), newPod(t)
	n.pod("cart", "", "")
	stop := n.start()
	n.eventually("{}", n.published)
	if text, err := n.cni(binary, "ADD", ns.Path); err == nil || !strings.Contains(text, "is ztunnel running on this node?") {
		t.Errorf("ADD without a proxy: %v, %s", err, text)
	}
	p := fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.eventually("yes", func() string { return map[bool]string{true: "yes"}[len(p.Log()) > 1] })
	if text, err := n.cni(binary, "ADD", ns.Path); err != nil {
		t.Fatalf("ADD: %v, %s", err, text)
	}
	n.until(ns, in) // at once, in fact
	if err := n.nft().Set(ns.Netns, redirect.Desired{}); err != nil {
		t.Fatal(err)
	}
	if text, err := n.cni(binary, "CHECK", ns.Path); err != nil {
		t.Errorf("CHECK: %v, %s", err, text)
	}
	n.until(ns, in) // the check has found and mended it
	stop()
	if text, err := n.cni(binary, "ADD", ns.Path); err == nil || !strings.Contains(text, "cannot contact the node agent") {
		t.Errorf("ADD without an agent: %v, %s", err, text)
	}
	n.start()
	p = fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.eventually("add demo/cart demo/cart (shop) snapshot", func() string { return strings.Join(p.Log(), " ") }) // where the pod lives was remembered
	if text, err := n.cni(binary, "DEL", ns.Path); err != nil {
		t.Errorf("DEL: %v, %s", err, text)
	}
	n.eventually("{}", n.published)
	n.eventually("del demo/cart", func() string { log := p.Log(); return log[len(log)-1] })
}

// get reads a page of the health address.
func (n *node) get(path string) (int, string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Get("http://" + n.cfg.HealthAddr + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		n.t.Error(err)
	}
	return response.StatusCode, string(body)
}

func TestPagesTellWhatIsGoingOn(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	n.write("broken.yaml", "kind: [")
	n.start()
	n.eventually("200", func() string { code, _ := n.get("/healthz"); return fmt.Sprint(code) })
	if code, body := n.get("/readyz"); code != 500 || !strings.Contains(body, taskObjects) {
		t.Errorf("ready with a broken folder: %d %s", code, body)
	}
	if err := os.Remove(filepath.Join(n.dir, "broken.yaml")); err != nil {
		t.Fatal(err)
	}
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	if code, body := n.get("/readyz"); code != 200 {
		t.Errorf("not ready: %d %s", code, body)
	}
	var v view
	n.eventually("enrolled", func() string {
		_, body := n.get("/debug/pods")
		if err := json.Unmarshal([]byte(body), &v); err != nil || len(v.Pods) != 1 {
			return fmt.Sprint(body, err)
		}
		return v.Pods[0].State
	})
	if p := v.Pods[0]; p.Pod != "demo/cart" || p.Netns != ns.Path || !p.Wanted || p.Why != "label on the namespace" || v.Proxies != 1 || v.Published["demo/cart"].State != status.Enabled {
		t.Errorf("view is %+v", v)
	}
	n.logs.mu.Lock()
	if !strings.Contains(n.logs.b.String(), "v1.2.3") {
		t.Error("the log doesn't say the version")
	}
	n.logs.mu.Unlock()
	if code, body := n.get("/debug/verify?pod=demo/unknown"); code != 404 || !strings.Contains(body, "isn't on this node") {
		t.Errorf("verify an unknown pod: %d %s", code, body)
	}
	if p := v.Pods[0]; p.Capture != "capture" || p.Engine != redirect.NFT {
		t.Errorf("in the pod: %q by %q", p.Capture, p.Engine)
	}
	if _, body := n.get("/metrics"); !strings.Contains(body, "tulle_cni_pods{state=\"enrolled\"} 1\n") || !strings.Contains(body, "tulle_cni_pods_failing 0\n") ||
		!strings.Contains(body, "istio_build{component=\"cni\"") || !strings.Contains(body, "\nprocess_resident_memory_bytes ") {
		t.Errorf("metrics:\n%s", body)
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	n := newNode(t)
	fakes := make([]*netns.Namespace, 12)
	for i := range fakes {
		fakes[i] = newPod(t)
		n.pod(fmt.Sprintf("pod-%d", i), fakes[i].Path, "")
	}
	n.start()
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.eventually("12", func() string { return fmt.Sprint(strings.Count(n.published(), "enabled")) })
	n.namespace("")
	n.eventually("{}", n.published)
	for _, ns := range fakes {
		n.until(ns, out)
	}
}

func TestASecondAgentOfTheNodeDoesNothing(t *testing.T) {
	n, ns := newNode(t), newPod(t)
	n.pod("cart", ns.Path, "")
	n.start()
	fakeproxy.Connect(t, n.cfg.ZDSSocket, nil)
	n.until(ns, in)
	second := n.cfg
	second.HealthAddr = freeAddress(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := Run(ctx, second, "v1.2.3", io.Discard); err == nil || !strings.Contains(err.Error(), "another process answers there") {
		t.Errorf("error is %v", err)
	}
	n.until(ns, in)
}
