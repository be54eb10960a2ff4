package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/cni-plugin/plugin"
)

var binary string // the plugin as it is installed

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tulle-cni-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "tulle-cni")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/tulle-mesh/tulle/cni-plugin")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the plugin: %v\n%s", err, out)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// agent is a scripted node agent.
type agent struct {
	runDir string
	mu     sync.Mutex
	log    []string
}

// startAgent serves the socket until the test ends.
func startAgent(t *testing.T, fail error) *agent {
	t.Helper()
	a := &agent{runDir: t.TempDir()}
	note := func(verb string, r plugin.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		text, err := json.Marshal(r)
		if err != nil {
			t.Error(err)
		}
		a.log = append(a.log, verb+" "+string(text))
	}
	handler := plugin.Handler{
		Add: func(_ context.Context, r plugin.Request) (plugin.Reply, error) {
			note("add", r)
			return plugin.Reply{Enrolled: fail == nil}, fail
		},
		Check: func(_ context.Context, r plugin.Request) error { note("check", r); return fail },
		Del:   func(_ context.Context, r plugin.Request) error { note("del", r); return fail },
		Ready: func() error { return fail },
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	listener, err := plugin.Listen(a.socket())
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- plugin.Serve(ctx, listener, handler, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return a
}

func (a *agent) socket() string { return filepath.Join(a.runDir, "pluginevent.sock") }

func (a *agent) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.log...)
}

const pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=cart;K8S_POD_UID=6f1c;K8S_POD_INFRA_CONTAINER_ID=x"

// conf is a network configuration as a runtime hands it to a chained plugin.
func conf(version, runDir string) string {
	prev := `{"cniVersion":"` + version + `","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],
		"ips":[{"version":"4","interface":0,"address":"10.0.0.5/24","gateway":"10.0.0.1"}],"dns":{}}`
	return fmt.Sprintf(`{"cniVersion":%q,"name":"net","type":"tulle-cni","pod_namespace":"istio-system","cni_agent_run_dir":%q,"prevResult":%s}`, version, runDir, prev)
}

// run executes the plugin as a runtime does.
func run(t *testing.T, verb, args, stdin string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "CNI_ARGS=" + args, "CNI_NETNS_OVERRIDE=1"}
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout = &out
	err = cmd.Run()
	return out.String(), err
}

// cniError is how plugins report.
type cniError struct {
	Code uint   `json:"code"`
	Msg  string `json:"msg"`
}

func wantError(t *testing.T, stdout string, err error, code uint, text string) {
	t.Helper()
	var got cniError
	if jsonErr := json.Unmarshal([]byte(stdout), &got); err == nil || jsonErr != nil {
		t.Fatalf("error is %v, output %q", err, stdout)
	}
	if got.Code != code || !strings.Contains(got.Msg, text) {
		t.Errorf("error is %+v, want %d with %q", got, code, text)
	}
}

func TestAddAsksTheAgentAndPassesTheResultThrough(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			a := startAgent(t, nil)
			out, err := run(t, "ADD", pod, conf(version, a.runDir))
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var result struct {
				CNIVersion string           `json:"cniVersion"`
				Interfaces []map[string]any `json:"interfaces"`
				IPs        []map[string]any `json:"ips"`
			}
			if err := json.Unmarshal([]byte(out), &result); err != nil {
				t.Fatal(err)
			}
			if result.CNIVersion != version || len(result.Interfaces) != 1 || len(result.IPs) != 1 || result.IPs[0]["address"] != "10.0.0.5/24" {
				t.Errorf("result isn't the previous one: %s", out)
			}
			want := `add {"Netns":"/run/netns/x","PodName":"cart","PodNamespace":"demo","PodUID":"6f1c","IPs":[{"Interface":0,"Address":{"IP":"10.0.0.5","Mask":"////AA=="},"Gateway":"10.0.0.1"}]}`
			if diff := cmp.Diff([]string{want}, a.requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddFailsClosed(t *testing.T) {
	t.Run("agent refuses", func(t *testing.T) {
		a := startAgent(t, errors.New("no ztunnel"))
		out, err := run(t, "ADD", pod, conf("1.0.0", a.runDir))
		wantError(t, out, err, 999, "take pod demo/cart into the mesh: the node agent refuses: no ztunnel")
	})
	t.Run("no agent", func(t *testing.T) {
		out, err := run(t, "ADD", pod, conf("1.0.0", t.TempDir()))
		wantError(t, out, err, 999, "cannot contact the node agent")
	})
	t.Run("an agent that never answers", func(t *testing.T) {
		dir := t.TempDir()
		listener, err := net.Listen("unix", filepath.Join(dir, "pluginevent.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		began := time.Now()
		out, err := run(t, "ADD", pod, conf("1.0.0", dir))
		wantError(t, out, err, 999, "cannot contact the node agent")
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("it waited %s", took)
		}
	})
	t.Run("broken configuration", func(t *testing.T) {
		out, err := run(t, "ADD", pod, `{"cniVersion":"1.0.0","name":"net","type":"tulle-cni","exclude_namespaces":7}`)
		wantError(t, out, err, 6, "network configuration")
	})
	t.Run("broken previous result", func(t *testing.T) {
		out, err := run(t, "ADD", pod, `{"cniVersion":"1.0.0","name":"net","type":"tulle-cni","prevResult":{"ips":7}}`)
		wantError(t, out, err, 6, "previous plugin")
	})
}

func TestAddLeavesOthersAlone(t *testing.T) {
	for name, args := range map[string]string{
		"not a pod":          "",
		"excluded namespace": "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns",
		"the agent itself":   "IgnoreUnknown=1;K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=istio-cni-node-x7k2p;K8S_POD_INFRA_CONTAINER_ID=x",
		"ztunnel":            "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=ztunnel-abcde",
	} {
		if out, err := run(t, "ADD", args, conf("1.0.0", "/nonexistent")); err != nil || !strings.Contains(out, "10.0.0.5/24") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	for name, args := range map[string]string{
		"the agent's name elsewhere":       "K8S_POD_NAMESPACE=demo;K8S_POD_NAME=istio-cni-node-x7k2p",
		"another pod of the own namespace": "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=istiod-x",
	} {
		if out, err := run(t, "ADD", args, conf("1.0.0", "/nonexistent")); err == nil {
			t.Errorf("%s: passed, %s", name, out)
		}
	}
	out, err := run(t, "ADD", "", `{"cniVersion":"1.0.0","name":"net","type":"tulle-cni"}`)
	if err != nil || !strings.Contains(out, `"cniVersion": "1.0.0"`) {
		t.Errorf("without a previous result: %v, %s", err, out)
	}
}

func TestDelNeverFails(t *testing.T) {
	a := startAgent(t, nil)
	broken := startAgent(t, errors.New("broken"))
	for name, c := range map[string]struct{ args, conf string }{
		"usual":           {pod, conf("1.0.0", a.runDir)},
		"agent refuses":   {pod, conf("1.0.0", broken.runDir)},
		"no agent":        {pod, conf("1.0.0", t.TempDir())},
		"not a pod":       {"", conf("1.0.0", a.runDir)},
		"previous broken": {pod, `{"cniVersion":"1.0.0","name":"net","type":"tulle-cni","prevResult":{"ips":7}}`},
	} {
		if out, err := run(t, "DEL", c.args, c.conf); err != nil {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	if got := a.requests(); len(got) != 1 || !strings.HasPrefix(got[0], `del {"Netns":"/run/netns/x","PodName":"cart"`) {
		t.Errorf("requests %q", got)
	}
}

func TestCheckAndStatusSayWhetherPodsCanLive(t *testing.T) {
	good, bad := startAgent(t, nil), startAgent(t, errors.New("no ztunnel"))
	if out, err := run(t, "CHECK", pod, conf("1.0.0", good.runDir)); err != nil {
		t.Errorf("check: %v, %s", err, out)
	}
	out, err := run(t, "CHECK", pod, conf("1.0.0", bad.runDir))
	wantError(t, out, err, 999, "check pod demo/cart: the node agent refuses: no ztunnel")
	if out, err := run(t, "STATUS", "", conf("1.1.0", good.runDir)); err != nil {
		t.Errorf("status: %v, %s", err, out)
	}
	out, err = run(t, "STATUS", "", conf("1.1.0", bad.runDir))
	wantError(t, out, err, 50, "no ztunnel")
	out, err = run(t, "STATUS", "", conf("1.1.0", t.TempDir()))
	wantError(t, out, err, 50, "cannot contact the node agent")
}

func TestNothingIsGarbage(t *testing.T) {
	valid := `{"cniVersion":"1.1.0","name":"net","type":"tulle-cni","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}`
	if out, err := run(t, "GC", "", valid); err != nil || out != "" {
		t.Errorf("%v, %s", err, out)
	}
	out, err := run(t, "GC", "", `{"cniVersion":"1.0.0","name":"net","type":"tulle-cni"}`)
	wantError(t, out, err, 1, "does not allow GC")
}

// What the plugins before have said about links, in the words of spec 1.1, must reach the runtime.
func TestAddLosesNothingOfTheResult(t *testing.T) {
	a := startAgent(t, nil)
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"tulle-cni","cni_agent_run_dir":%q,"prevResult":{"cniVersion":"1.1.0",
		"interfaces":[{"name":"eth0","mac":"0a:58:0a:00:00:05","mtu":1450,"sandbox":"/run/netns/x","socketPath":"/run/vhost","pciID":"0000:00:1f.6"}],
		"ips":[{"interface":0,"address":"10.0.0.5/24","gateway":"10.0.0.1"},{"interface":0,"address":"fd00::5/64"}],
		"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1","mtu":1400,"advmss":1360,"priority":5,"table":7,"scope":0}],
		"dns":{"nameservers":["10.96.0.10"],"search":["svc.cluster.local"]}}}`, a.runDir)
	out, err := run(t, "ADD", pod, conf)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got map[string]any
	var want struct {
		PrevResult map[string]any `json:"prevResult"`
	}
	if err := errors.Join(json.Unmarshal([]byte(out), &got), json.Unmarshal([]byte(conf), &want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.PrevResult, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestVersionNamesTheSpec(t *testing.T) {
	out, err := run(t, "VERSION", "", `{"cniVersion":"1.1.0"}`)
	if err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	var said struct{ CNIVersion, SupportedVersions any }
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, said.SupportedVersions); diff != "" || said.CNIVersion != "1.1.0" {
		t.Errorf("answers %s\n%s", out, diff)
	}
}

func TestTheSocketTakesNoRubbish(t *testing.T) {
	a := startAgent(t, nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.socket())
	}}}
	for name, c := range map[string]struct {
		method, path, body string
		want               int
	}{
		"not JSON":      {"POST", "/cmdadd", "{", 400},
		"no pod":        {"POST", "/cmdadd", `{"Netns":"/run/netns/x"}`, 400},
		"more than 1 M": {"POST", "/cmdadd", `{"PodName":"` + strings.Repeat("x", 2<<20), 400},
		"wrong method":  {"GET", "/cmdadd", "", 405},
		"wrong path":    {"POST", "/cmdfly", "{}", 404},
		"Istio's words": {"POST", "/cmdadd", `{"Netns":"/n","PodName":"a","PodNamespace":"b","IPs":[{"Interface":null,"Address":{"IP":"10.0.0.5","Mask":"////AA=="},"Gateway":"10.0.0.1"}]}`, 200},
	} {
		request, err := http.NewRequest(c.method, "http://unix"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%s: status %d, want %d", name, response.StatusCode, c.want)
		}
	}
	if got := a.requests(); len(got) != 1 {
		t.Errorf("requests %q", got)
	}
}

func TestASecondAgentDoesntTakeTheSocket(t *testing.T) {
	a := startAgent(t, nil)
	_, err := plugin.Listen(a.socket())
	if err == nil || !strings.Contains(err.Error(), "another process answers there") {
		t.Errorf("error is %v", err)
	}
	info, err := os.Stat(a.socket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}
