package nodeagent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
)

const (
	system   = "istio-system"
	patience = 30 * time.Second
)

var worlds atomic.Int32

// world is a node, a namespace and what a test starts there.
type world struct {
	server
	t         *testing.T
	host      *netns.Namespace // the node's own network
	dir       string
	namespace string
	node      string
	pods      int
	health    string
	logs      *lockedText
	program   string   // the agent's
	pid       int      // of the agent started last
	args      []string // of the agent, beside those that every agent has
}

type lockedText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t *testing.T, labels string) *world {
	t.Helper()
	return newWorldOf(t, shared, labels)
}

func newWorldOf(t *testing.T, server server, labels string) *world {
	t.Helper()
	number := worlds.Add(1)
	w := &world{server: server, t: t, dir: t.TempDir(), namespace: fmt.Sprintf("demo%d", number), node: fmt.Sprintf("node%d", number), logs: new(lockedText), program: agentProgram}
	w.health = freeAddress(t)
	w.host = netns.New(t, "tulle-nodeagent")
	w.must(os.MkdirAll(filepath.Join(w.dir, "proc/1/ns"), 0o755))
	w.must(os.Symlink(w.host.Path, filepath.Join(w.dir, "proc/1/ns/net")))
	w.label(labels)
	w.apply(fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: %s}, spec: {taints: [{key: cni.istio.io/not-ready, effect: NoSchedule}, {key: other, effect: NoSchedule}]}}", w.node))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log:\n%s", w.logs)
		}
	})
	return w
}

func freeAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) apply(yaml string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.must(w.Server.Apply(ctx, yaml))
}

// label gives the namespace these labels.
func (w *world) label(labels string) {
	w.t.Helper()
	w.apply(fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}", w.namespace, labels))
}

const ambient = "istio.io/dataplane-mode: ambient"

// pod is a pod with a network of its own.
type pod struct {
	*netns.Namespace
	world *world
	name  string
	addr  string
	uid   string
	end   func() // kills its process
}

// podSpec is what is said of a pod.
type podSpec struct {
	labels, annotations string
	waiting             bool // it has no address yet, as before the runtime has added it
	failed              bool // by its object: its process runs until it's ended
}

// pod makes a pod whose only process runs in its network.
func (w *world) pod(name string, spec podSpec) *pod {
	w.t.Helper()
	w.pods++
	p := &pod{Namespace: netns.New(w.t, "tulle-nodeagent"), world: w, name: name, addr: fmt.Sprintf("10.80.1.%d", w.pods)}
	node := netns.New(w.t, "tulle-nodeagent")
	netns.Connect(p.Namespace, node, "eth0", []netip.Prefix{netip.MustParsePrefix(p.addr + "/16")}, []netip.Prefix{netip.MustParsePrefix("10.80.255.254/16")})
	p.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.80.255.254"))
	p.apply(spec)
	object, err := w.Client().CoreV1().Pods(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
	w.must(err)
	p.uid = string(object.UID)
	var cmd *exec.Cmd
	w.must(p.Do(func() error {
		cmd = exec.Command("sleep", "1000")
		return cmd.Start()
	}))
	p.end = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	w.t.Cleanup(p.end)
	w.process(strconv.Itoa(cmd.Process.Pid), strconv.Itoa(cmd.Process.Pid), "0::/kubepods/pod"+p.uid+"/x\n")
	return p
}

func (p *pod) apply(spec podSpec) {
	p.world.t.Helper()
	status := fmt.Sprintf("{phase: Running, podIP: %s, podIPs: [{ip: %s}]}", p.addr, p.addr)
	if spec.waiting {
		status = "{phase: Pending}"
	}
	if spec.failed {
		status = "{phase: Failed, reason: Evicted}"
	}
	p.world.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: x, %s}, annotations: {note: plain, %s}}
spec: {nodeName: %s, serviceAccountName: shop, containers: [{name: app, image: app}]}
status: %s
`, p.name, p.world.namespace, spec.labels, spec.annotations, p.world.node, status))
}

// process makes an entry in the folder that is the node's /proc for the agent: a real process, whose cgroup is ours to
// say, for there is no kubelet to make it.
func (w *world) process(pid, real, cgroup string) {
	w.t.Helper()
	at := filepath.Join(w.dir, "proc", pid)
	w.must(os.MkdirAll(at, 0o755))
	w.must(os.Symlink(filepath.Join("/proc", real, "ns"), filepath.Join(at, "ns")))
	w.must(os.Symlink(filepath.Join("/proc", real, "stat"), filepath.Join(at, "stat")))
	w.must(os.WriteFile(filepath.Join(at, "cgroup"), []byte(cgroup), 0o644))
}

func (w *world) zds() string { return filepath.Join(w.dir, "ztunnel.sock") }

// start runs an agent; stop ends it as the kubelet does, and kill as a crash would.
func (w *world) start() (stop, kill func()) {
	w.t.Helper()
	cmd := exec.Command(w.program, append([]string{
		"--source", "kubernetes", "--kubeconfig", w.kubeconfig, "--node", w.node, "--engine", "nft", "--bpf-dir", "", "--proc", filepath.Join(w.dir, "proc"),
		"--zds-socket", w.zds(), "--plugin-socket", filepath.Join(w.dir, "run", "pluginevent.sock"), "--health-addr", w.health,
		"--metrics-addr", "127.0.0.1:0", "--withdraw-grace", "300ms", "--drain-timeout", "5s",
	}, w.args...)...)
	cmd.Stdout, cmd.Stderr = w.logs, w.logs
	w.must(os.MkdirAll(filepath.Join(w.dir, "run"), 0o755))
	w.must(cmd.Start())
	w.pid = cmd.Process.Pid
	end := func(how syscall.Signal) func() {
		return func() {
			_ = cmd.Process.Signal(how)
			timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
			if err := cmd.Wait(); err != nil && how == syscall.SIGTERM {
				w.t.Errorf("the agent's end: %v", err)
			}
		}
	}
	var once sync.Once
	stop = func() { once.Do(end(syscall.SIGTERM)) }
	kill = func() { once.Do(end(syscall.SIGKILL)) }
	w.t.Cleanup(stop)
	return stop, kill
}

// eventually repeats a look until it has the wanted result.
func (w *world) eventually(want string, look func() string) {
	w.t.Helper()
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = look(); got == want {
			return
		}
	}
	w.t.Fatalf("it is %q, not %q", got, want)
}

// says is the pod's annotation.
func (p *pod) says() string {
	object, err := p.world.Client().CoreV1().Pods(p.world.namespace).Get(p.world.t.Context(), p.name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	return object.Annotations["ambient.istio.io/redirection"]
}

// ask reads a page of the agent.
func (w *world) ask(path string) string {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Get("http://" + w.health + path)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// status runs the agent's own command, and returns the line about a pod without what differs from run to run: generation, links and counts.
func (p *pod) status() string {
	out, err := exec.Command(agentProgram, "status", "--health-addr", p.world.health).CombinedOutput()
	if err != nil {
		return string(out)
	}
	for line := range strings.Lines(string(out)) {
		if columns := columnGap.Split(strings.TrimSpace(line), -1); len(columns) == 10 && columns[0] == p.world.namespace+"/"+p.name {
			return strings.Join(slices.Delete(columns[1:], 2, 7), " ")
		}
	}
	return "not listed"
}

var columnGap = regexp.MustCompile(` {2,}`)

// verify runs the agent's own command. The proxy, which is scripted, must be stood for by a listener in the pod.
func (p *pod) verify() (string, error) {
	out, err := exec.Command(agentProgram, "verify", "--health-addr", p.world.health, p.world.namespace+"/"+p.name).CombinedOutput()
	return string(out), err
}

// cni executes the plugin as the runtime does.
func (p *pod) cni(verb string) error {
	cmd := exec.Command(pluginProgram)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_NETNS=" + p.Path, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s;K8S_POD_INFRA_CONTAINER_ID=c1", p.world.namespace, p.name, p.uid),
	}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","type":"tulle-cni","cni_agent_run_dir":%q,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"%s/24"}]}}`,
		filepath.Join(p.world.dir, "run"), p.addr))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, out.String())
	}
	return nil
}

// events are the reasons of the pod's events.
func (p *pod) events() string {
	list, err := p.world.Client().CoreV1().Events(p.world.namespace).List(p.world.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + p.uid})
	if err != nil {
		return err.Error()
	}
	var texts []string
	for _, e := range list.Items {
		texts = append(texts, e.Reason+": "+e.Message)
	}
	return strings.Join(texts, "\n")
}

func (w *world) contains(want string, look func() string) {
	w.t.Helper()
	w.eventually("yes", func() string {
		if got := look(); !strings.Contains(got, want) {
			return got
		}
		return "yes"
	})
}

const (
	daemonSet = `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: istio-cni-node, namespace: istio-system}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}}}`
	network   = `{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`
)

// runtime is a container runtime's folders.
type runtime struct {
	world     *world
	conf, bin string
}

// runtime has the next agent install the plugin.
func (w *world) runtime() runtime {
	w.t.Helper()
	r := runtime{w, filepath.Join(w.dir, "net.d"), filepath.Join(w.dir, "bin")}
	w.must(os.Mkdir(r.conf, 0o755))
	w.must(os.Mkdir(r.bin, 0o755))
	w.args = []string{"--cni-conf-dir", r.conf, "--cni-bin-dir", r.bin, "--cni-plugin", pluginProgram}
	return r
}

func (r runtime) file() string { return filepath.Join(r.conf, "10-a.conflist") }

// network does what the cluster's network plugin does when it comes.
func (r runtime) network() {
	r.world.t.Helper()
	r.world.must(os.WriteFile(r.file(), []byte(network), 0o644))
}

func (r runtime) configuration() string {
	data, err := os.ReadFile(r.file())
	if err != nil {
		return err.Error()
	}
	return string(data)
}
