package watch

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a pair of folders that is followed.
type source struct {
	t       *testing.T
	dir     string
	lock    sync.Mutex
	logged  bytes.Buffer
	changes [][]string // each "Kind/namespace/name", with a minus for what went
	reports []string
}

func follow(t *testing.T, files ...string) *source {
	t.Helper()
	t.Parallel()
	s := &source{t: t, dir: t.TempDir()}
	for _, name := range []string{"objects", "status"} {
		if err := os.Mkdir(filepath.Join(s.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < len(files); i += 2 {
		s.write(files[i], files[i+1])
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	files_ := Files{
		Source: filepath.Join(s.dir, "objects"), Status: filepath.Join(s.dir, "status"), Log: slog.New(slog.NewTextHandler(s, nil)),
		Apply: func(changes []model.Change) {
			s.lock.Lock()
			defer s.lock.Unlock()
			s.changes = append(s.changes, describe(changes))
		},
		Report: func(err error) {
			s.lock.Lock()
			defer s.lock.Unlock()
			s.reports = append(s.reports, strings.ReplaceAll(err.Error(), s.dir+"/", ""))
		},
	}
	go func() { done <- files_.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// Write is the log's.
func (s *source) Write(p []byte) (int, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.logged.Write(p)
}

func describe(changes []model.Change) []string {
	var list []string
	for _, change := range changes {
		text := string(change.Key.Kind) + "/" + change.Key.Name.String()
		if change.Object == nil {
			text = "-" + text
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

func (s *source) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		s.t.Fatal(err)
	}
}

func (s *source) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		s.lock.Lock()
		done := ok()
		state := fmt.Sprintf("changes %v\nreports %q\nlog %s", s.changes, s.reports, s.logged.String())
		s.lock.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not %s\n%.3000s", what, state)
		}
	}
}

// changed waits for the next changes.
func (s *source) changed(want ...string) {
	s.t.Helper()
	s.eventually("changed", func() bool { return len(s.changes) > 0 })
	s.lock.Lock()
	defer s.lock.Unlock()
	if !slices.Equal(s.changes[0], want) {
		s.t.Fatalf("want %v, have %v", want, s.changes[0])
	}
	s.changes = s.changes[1:]
}

func pods(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		name, ip, _ := strings.Cut(name, "=")
		fmt.Fprintf(&text, "---\n{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: demo}, spec: {containers: []}, status: {podIP: 10.0.0.%s}}\n", name, ip)
	}
	return text.String()
}

func TestOnlyWhatChangedIsToldOfAFile(t *testing.T) {
	s := follow(t, "objects/a.yaml", pods("a=1", "b=2"), "status/node1.yaml", "{node: node1, pods: {demo/a: {uid: x, state: enabled}}}")
	s.changed("Enrolment//node1", "Pod/demo/a", "Pod/demo/b")
	s.write("objects/a.yaml", pods("b=3", "c=4"))
	s.changed("-Pod/demo/a", "Pod/demo/b", "Pod/demo/c")
	// The same objects in another file and another order are no change.
	s.write("objects/a.yaml", pods("c=4", "b=3")+"# a remark\n")
	s.write("status/node1.yaml", "{node: node1, pods: {}}")
	s.changed("Enrolment//node1")
	if err := os.Remove(filepath.Join(s.dir, "status/node1.yaml")); err != nil {
		t.Fatal(err)
	}
	s.changed("-Enrolment//node1")
}

// What is in no namespace is the same object whatever namespace is written, so that what one file says isn't taken away by another's end.
func TestANamespaceSaysNothingAboutWhatIsInNone(t *testing.T) {
	s := follow(t, "objects/a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n")
	s.changed("Namespace//demo")
	s.write("objects/b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, namespace: demo, labels: {a: b}}\n")
	s.eventually("reported", func() bool {
		return slices.Equal(s.reports, []string{"objects/b.yaml:1: Namespace demo is already in objects/a.yaml:1"})
	})
}

func TestNothingIsToldBeforeTheSourceIsGood(t *testing.T) {
	s := follow(t, "objects/a.yaml", pods("a=1"), "objects/b.yaml", "kind: Pod", "status/node1.yaml", "{node: node1}")
	s.eventually("reported", func() bool { return len(s.reports) == 1 })
	s.write("objects/b.yaml", pods("b=2"))
	s.changed("Enrolment//node1", "Pod/demo/a", "Pod/demo/b")
}

func TestABrokenStatusFileAtTheStartCountsAsAbsent(t *testing.T) {
	s := follow(t, "objects/a.yaml", pods("a=1"), "status/node1.yaml", "{node: node2}", "status/node3.yaml", "{node: node3}")
	s.changed("Enrolment//node3", "Pod/demo/a")
	s.eventually("reported", func() bool { return len(s.reports) == 1 })
	s.write("status/node1.yaml", "{node: node1}")
	s.changed("Enrolment//node1")
}

func TestAKindThatIsNotReadIsLoggedOnce(t *testing.T) {
	s := follow(t, "objects/a.yaml", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {whatever: 1}}\n---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}\n"+pods("a=1"))
	s.changed("Pod/demo/a")
	s.write("objects/b.yaml", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: c}}\n"+pods("b=1"))
	s.changed("Pod/demo/b")
	s.lock.Lock()
	defer s.lock.Unlock()
	if got := strings.Count(s.logged.String(), "apps/v1/Deployment"); got != 1 {
		t.Errorf("logged %d times: %s", got, s.logged.String())
	}
}

func TestAMisspeltPolicyKindIsWarnedOf(t *testing.T) {
	s := follow(t, "objects/a.yaml", "{apiVersion: security.istio.io/v1, kind: AuthorisationPolicy, metadata: {name: a}}\n---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}\n"+pods("a=1"))
	s.changed("Pod/demo/a")
	s.lock.Lock()
	defer s.lock.Unlock()
	for line := range strings.Lines(s.logged.String()) {
		if want := strings.Contains(line, "AuthorisationPolicy"); strings.Contains(line, "level=WARN") != want {
			t.Error(line)
		}
	}
	if !strings.Contains(s.logged.String(), "AuthorisationPolicy") {
		t.Error("not said")
	}
}

func TestKeysOfConditionsThatAreKnown(t *testing.T) {
	s := follow(t)
	s.changed()
	var text strings.Builder
	text.WriteString("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: demo}\nspec:\n  rules:\n  - when:\n")
	for _, key := range []string{
		"source.namespace", "source.principal", "source.serviceAccount", "request.headers[User-Agent]", "request.auth.principal", "request.auth.audiences",
		"request.auth.presenter", "request.auth.claims[iss]", "request.auth.claims[a][b]", "connection.sni", "experimental.envoy.filters.network.mysql_proxy[db]",
	} {
		fmt.Fprintf(&text, "    - {key: %q, values: [x]}\n", key)
	}
	s.write("objects/p.yaml", text.String()+"    - {key: remote.ip, values: [10.0.0.0/8]}\n")
	s.changed("AuthorizationPolicy/demo/p")
}

// Each object is refused with the line of its mistake, as a broken file is.
func TestObjectsThatCannotBeMeant(t *testing.T) {
	const policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: demo}\nspec:\n"
	const peer = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: demo}\nspec:\n"
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: demo}\nspec:\n"
	const slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: demo}\naddressType: IPv4\n"
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: demo}\n"
	s := follow(t, "objects/good.yaml", pods("a=1"))
	s.changed("Pod/demo/a")
	for _, c := range []struct{ text, want string }{
		{policy + "  rules:\n  - form: []", `6: spec: unknown field "form"`},
		{policy + "  rules:\n  - from:\n    - source: {namespace: [a]}", `7: spec: unknown field "namespace"`},
		{policy + "  action: REJECT", `5: spec: invalid value for enum field action: "REJECT"`},
		{policy + "  rules:\n  - from:\n    - source:\n        ipBlocks:\n        - 10.0.0.0/8\n        - 10.0.0.0/33", `10: spec.rules[0].from[0].source.ipBlocks[1]: want an address or a range such as 10.0.0.0/8, have "10.0.0.0/33"`},
		{policy + "  rules:\n  - from:\n    - source: {notIpBlocks: [localhost]}", `7: spec.rules[0].from[0].source.notIpBlocks[0]: want an address or a range such as 10.0.0.0/8, have "localhost"`},
		{policy + "  rules:\n  - from:\n    - source: {ipBlocks: [fe80::1%eth0]}", `7: spec.rules[0].from[0].source.ipBlocks[0]: want an address or a range such as 10.0.0.0/8, have "fe80::1%eth0"`},
		{policy + "  rules:\n  - from:\n    - source: {}", `7: spec.rules[0].from[0].source: a source without fields: leave from out to match every source`},
		{policy + "  rules:\n  - from:\n    - {}", `7: spec.rules[0].from[0].source: a source without fields: leave from out to match every source`},
		{policy + "  rules:\n  - from:\n    - source: {principals: [\"\"]}", `7: spec.rules[0].from[0].source.principals[0]: an empty value`},
		{policy + "  rules:\n  - from:\n    - source: {serviceAccounts: [\"a/*\"]}", `7: spec.rules[0].from[0].source.serviceAccounts[0]: want account or namespace/account without wildcards, have "a/*"`},
		{policy + "  rules:\n  - to:\n    - operation: {}", `7: spec.rules[0].to[0].operation: an operation without fields: leave to out to match every operation`},
		{policy + "  rules:\n  - to:\n    - operation: {ports: [\"80\", \"http\"]}", `7: spec.rules[0].to[0].operation.ports[1]: want a port within 1 to 65535, have "http"`},
		{policy + "  rules:\n  - to:\n    - operation: {notPorts: [\"65536\"]}", `7: spec.rules[0].to[0].operation.notPorts[0]: want a port within 1 to 65535, have "65536"`},
		{policy + "  rules:\n  - when:\n    - {values: [a]}", `7: spec.rules[0].when[0].key: missing`},
		{policy + "  action: DENY\n  rules:\n  - when:\n    - {key: source.nonsense, values: [a]}", `8: spec.rules[0].when[0].key: attribute "source.nonsense" is not known`},
		{policy + "  rules:\n  - when:\n    - {key: \"request.headers[]\", values: [a]}", `7: spec.rules[0].when[0].key: attribute "request.headers[]" is not known`},
		{policy + "  rules:\n  - when:\n    - {key: \"request.headers[a\", values: [a]}", `7: spec.rules[0].when[0].key: attribute "request.headers[a" is not known`},
		{policy + "  rules:\n  - when:\n    - {key: source.ip}", `7: spec.rules[0].when[0]: neither values nor notValues`},
		{policy + "  rules:\n  - when:\n    - {key: destination.port, notValues: [\"0\"]}", `7: spec.rules[0].when[0].notValues[0]: want a port within 1 to 65535, have "0"`},
		{policy + "  rules:\n  - when:\n    - {key: destination.ip, values: [x]}", `7: spec.rules[0].when[0].values[0]: want an address or a range such as 10.0.0.0/8, have "x"`},
		{policy + "  selector:\n    matchLabels:\n      app: \"*\"", `6: spec.selector.matchLabels: label app=* can't be: `},
		{policy + "  selector: {}\n  targetRefs: [{kind: Gateway, name: g}]", `5: spec.selector: selector and targetRefs exclude each other`},
		{"apiVersion: security.istio.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p}", `1: apiVersion: security.istio.io/v1alpha1 is not known: use security.istio.io/v1`},
		{peer + "  mtls: {mode: STRONG}", `5: spec: invalid value for enum field mode: "STRONG"`},
		{peer + "  portLevelMtls:\n    8080: {mode: STRICT}", `5: spec.portLevelMtls: exceptions for ports need a selector`},
		{peer + "  selector: {matchLabels: {app: a}}\n  portLevelMtls:\n    70000: {mode: STRICT}", `6: spec.portLevelMtls: port 70000 is not within 1 to 65535`},
		{service + "  clusterIPs: [10.0.0.1, 10.0.0.256]", `5: spec.clusterIPs[1]: want an IP address, have "10.0.0.256": `},
		{service + "  clusterIP: x", `5: spec.clusterIP: want an IP address, have "x": `},
		{service + "  ports:\n  - port: 80\n  - port: 0", `7: spec.ports[1].port: port 0 is not within 1 to 65535`},
		{service + "  ports:\n  - {port: 80, targetPort: 70000}", `6: spec.ports[0].targetPort: port 70000 is not within 1 to 65535`},
		{service + "  selector: {\"a b\": c}", `5: spec.selector: label a b=c can't be: `},
		{service + "  clusterIp: x", `5: spec.clusterIp: unknown field, did you mean "clusterIP"?`},
		{slice + "endpoints:\n- addresses: [10.0.0.1]\n- addresses: [localhost]", `7: endpoints[1].addresses[0]: want an IP address, have "localhost": `},
		{slice + "ports: [{port: -1}]", `5: ports[0].port: port -1 is not within 1 to 65535`},
		{pod + "status:\n  podIPs:\n  - ip: x", `6: status.podIPs[0].ip: want an IP address, have "x": `},
		{pod + "spec:\n  containers:\n  - ports:\n    - containerPort: 0", `7: spec.containers[0].ports[0].containerPort: port 0 is not within 1 to 65535`},
		{pod + "spec: {nodename: x}", `4: spec.nodename: unknown field, did you mean "nodeName"?`},
		{"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: s}\nsecret: x", `4: secret: unknown field`},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: s, label: {}}", `3: metadata.label: unknown field`},
	} {
		s.write("objects/bad.yaml", c.text+"\n")
		s.eventually("reported: "+c.want, func() bool {
			return slices.ContainsFunc(s.reports, func(report string) bool { return strings.HasPrefix(report, "objects/bad.yaml:"+c.want) })
		})
		s.lock.Lock()
		if len(s.changes) != 0 {
			t.Errorf("%s\nchanged %v", c.text, s.changes)
		}
		s.lock.Unlock()
	}
}

func TestStatusFilesThatCannotBeMeant(t *testing.T) {
	s := follow(t)
	s.changed()
	for _, c := range []struct{ text, want string }{
		{"node: node2", `1: node: node "node2" must be in a file named node2.yaml`},
		{"pods: {}", `1: node: is missing`},
		{"node: node1\npods: {frontend: {uid: x, state: enabled}}", `1: pod "frontend": want namespace/name`},
		{"node: node1\npods: {demo/frontend: {uid: x, state: yes}}", `2: pods.demo/frontend.state: state "yes": want enabled or pending`},
		{"node: node1\npods: {demo/frontend: {state: enabled}}", `1: pod "demo/frontend": uid: is missing`},
		{"node: node1\npods:\n  demo/frontend: enabled", `3: pods.demo/frontend: want an object, have "enabled"`},
		{"node: node1\npots: {}", `2: pots: unknown field`},
	} {
		s.write("status/node1.yaml", c.text+"\n")
		s.eventually("reported: "+c.want, func() bool { return slices.Contains(s.reports, "status/node1.yaml:"+c.want) })
	}
}
