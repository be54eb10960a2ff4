package daemon_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	frontend = "Kubernetes//Pod/demo/frontend"
	backend  = "Kubernetes//Pod/demo/backend"
)

func TestAChangedFileReachesTheProxy(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	p.until("+"+frontend, "+"+backend)

	w.write("objects/more.yaml", podYAML("third", "node1", "10.1.0.3"))
	p.until("+Kubernetes//Pod/demo/third")

	w.write("objects/more.yaml", podYAML("fourth", "node1", "10.1.0.4"))
	p.until("-Kubernetes//Pod/demo/third", "+Kubernetes//Pod/demo/fourth")

	if err := os.Remove(filepath.Join(w.dir, "objects/more.yaml")); err != nil {
		t.Fatal(err)
	}
	p.until("-Kubernetes//Pod/demo/fourth")
}

func TestABrokenFileIsReportedAndWhatItSaidStaysInForce(t *testing.T) {
	w := newWorld(t)
	w.write("objects/policy.yaml", policyYAML("10.0.0.0/8"))
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	p.until("+demo/policy", "+"+frontend, "+"+backend)

	w.write("objects/policy.yaml", policyYAML("10.0.0.0/99"))
	w.eventually("reported", func() bool {
		return w.logs.has("policy.yaml:5: spec.rules[0].from[0].source.ipBlocks[0]: want an address or a range such as 10.0.0.0/8, have \\\"10.0.0.0/99\\\"")
	})
	// Other files go on, and the policy is still there.
	w.write("objects/more.yaml", podYAML("third", "node1", "10.1.0.3"))
	if order := p.until("+Kubernetes//Pod/demo/third"); len(order) != 1 {
		t.Errorf("told %v", order)
	}
	w.write("objects/policy.yaml", policyYAML("192.0.2.0/24"))
	p.until("+demo/policy")
}

func policyYAML(block string) string {
	return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: policy, namespace: demo}
spec:
  rules: [{from: [{source: {ipBlocks: ["` + block + `"]}}]}]
`
}

func TestNothingIsServedBeforeEveryFileWasGoodOnce(t *testing.T) {
	w := newWorld(t)
	w.write("objects/policy.yaml", "kind: AuthorizationPolicy\n")
	w.start()
	w.eventually("reported", func() bool { return w.logs.has("policy.yaml:1: apiVersion: missing") })
	code, body := w.get("/ready")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "policy.yaml:1") {
		t.Errorf("ready says %d %q", code, body)
	}
	if err := streamError(t, w, w.token(nil), "node1"); !strings.Contains(err, "Unavailable") {
		t.Errorf("stream: %s", err)
	}
	if _, err := w.certificate(w.token(nil), frontendID, nil); err == nil || !strings.Contains(err.Error(), "Unavailable") {
		t.Errorf("certificate: %v", err)
	}
	w.write("objects/policy.yaml", policyYAML("10.0.0.0/8"))
	w.ready()
	w.connect(w.token(nil), nil).until("+demo/policy", "+"+frontend)
}

func TestAnEnrolledPodIsReachedByHBONE(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	p.until("+"+frontend, "+"+backend)
	if text := w.dump(frontend); strings.Contains(text, "HBONE") {
		t.Errorf("before its enrolment: %s", text)
	}
	w.write("status/node1.yaml", "{node: node1, pods: {demo/frontend: {uid: demo/frontend, state: pending}}}\n")
	w.write("status/node1.yaml", "{node: node1, pods: {demo/frontend: {uid: demo/frontend, state: enabled}, demo/backend: {uid: demo/backend, state: enabled}}}\n")
	// The backend is on another node, whose agent alone can say so.
	if order := p.until("+" + frontend); len(order) != 1 {
		t.Errorf("told %v", order)
	}
	if text := w.dump(frontend); !strings.Contains(text, "HBONE") {
		t.Errorf("after its enrolment: %s", text)
	}
	if err := os.Remove(filepath.Join(w.dir, "status/node1.yaml")); err != nil {
		t.Fatal(err)
	}
	p.until("+" + frontend)
	if text := w.dump(frontend); strings.Contains(text, "HBONE") {
		t.Errorf("after its end: %s", text)
	}
}

func TestAPodThatIsMadeAnewIsNotReachedByHBONEBeforeItsOwnEnrolment(t *testing.T) {
	w := newWorld(t)
	pod := func(uid string) string {
		return strings.Replace(podYAML("frontend", "node1", "10.1.0.1"), "namespace: demo,", "namespace: demo, uid: "+uid+",", 1)
	}
	w.write("objects/pods.yaml", pod("one"))
	w.write("status/node1.yaml", "{node: node1, pods: {demo/frontend: {uid: one, state: enabled}}}\n")
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	p.until("+" + frontend)
	if text := w.dump(frontend); !strings.Contains(text, "HBONE") {
		t.Errorf("enrolled: %s", text)
	}
	w.write("objects/pods.yaml", pod("two"))
	p.until("+" + frontend)
	if text := w.dump(frontend); strings.Contains(text, "HBONE") {
		t.Errorf("another pod: %s", text)
	}
}

func TestABrokenStatusFileDoesNotHoldTheControlPlaneBack(t *testing.T) {
	w := newWorld(t)
	w.write("status/node1.yaml", "node: [")
	w.start()
	w.ready()
	if !w.logs.has("node1.yaml") {
		t.Error("not reported")
	}
}

// dump returns what the debug page says of a workload.
func (w *world) dump(uid string) string {
	w.t.Helper()
	_, body := w.get("/debug/ambientz")
	var all map[string][]map[string]any
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		w.t.Fatal(err)
	}
	for _, one := range all["workloads"] {
		if one["uid"] == uid {
			text, _ := json.Marshal(one)
			return string(text)
		}
	}
	w.t.Fatalf("no workload %s in %s", uid, body)
	return ""
}

func TestAProxyThatKnowsEverythingIsToldOnlyChangesAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.write("objects/policy.yaml", policyYAML("10.0.0.0/8"))
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	p.until("+"+frontend, "+"+backend, "+demo/policy")
	w.stop()

	w.write("objects/pods.yaml", podYAML("frontend", "node1", "10.1.0.1")+"---\n"+podYAML("new", "node1", "10.1.0.3"))
	w.start()
	w.ready()
	again := w.connect(w.token(nil), p.versions)
	order := again.until("-"+backend, "+Kubernetes//Pod/demo/new")
	if len(order) != 2 {
		t.Errorf("told %v", order)
	}
}

func TestPoliciesComeBeforeTheWorkloadsThatNameThemAndGoAfter(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	p.until("+"+frontend, "+"+backend)
	w.write("objects/policy.yaml", strings.Replace(policyYAML("10.0.0.0/8"), "spec:\n", "spec:\n  selector: {matchLabels: {app: backend}}\n", 1))
	if order := p.until("+demo/policy", "+"+backend); !slices.Equal(order, []string{"+demo/policy", "+" + backend}) {
		t.Errorf("told %v", order)
	}
	if err := os.Remove(filepath.Join(w.dir, "objects/policy.yaml")); err != nil {
		t.Fatal(err)
	}
	if order := p.until("-demo/policy", "+"+backend); !slices.Equal(order, []string{"+" + backend, "-demo/policy"}) {
		t.Errorf("told %v", order)
	}
}

func TestAnEmptyMeshAnswersBothTypes(t *testing.T) {
	w := newWorld(t)
	if err := os.Remove(filepath.Join(w.dir, "objects/pods.yaml")); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	types := []string{short(p.take().TypeUrl), short(p.take().TypeUrl)}
	if !slices.Equal(types, []string{"Authorization", "Address"}) || len(p.order) != 0 {
		t.Errorf("answered %v with %v", types, p.order)
	}
}

func short(typeURL string) string { return typeURL[strings.LastIndex(typeURL, ".")+1:] }

func TestDebugPages(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	p := w.connect(w.token(nil), nil)
	p.until("+"+frontend, "+"+backend)
	w.eventually("acknowledged", func() bool {
		_, body := w.get("/debug/syncz")
		var all []struct {
			Proxy, Node string
			Connected   time.Time
			Types       map[string]struct{ Sent, Acked string }
		}
		if err := json.Unmarshal([]byte(body), &all); err != nil {
			t.Fatal(err)
		}
		return len(all) == 1 && all[0].Node == "node1" && all[0].Types["wds"].Acked == "1" && all[0].Types["wads"].Acked == "1"
	})
	for path, want := range map[string]string{
		"/metrics": `pilot_xds_pushes{type="wds"} 1`, "/version": "v1.2.3-test-", "/healthz": "ok\n", "/ready": "ready\n", "/": "/debug/ambientz",
		"/debug/configz": `"ServiceAccount": "backend"`, "/debug/configz?kind=Pod&namespace=demo": `"Name": "frontend"`, "/debug/configz?kind=Pod&namespace=other": "{}\n",
		"/debug/pprof/cmdline": "",
	} {
		if code, body := w.get(path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}
