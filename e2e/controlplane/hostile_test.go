package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
	"github.com/tulle-mesh/tulle/mesh/api/security"
)

// hostile is an object that a control plane must survive. NAME stands for the object's name.
type hostile struct {
	name string
	kind schema.GroupVersionKind
	good string // fields of the object before, "" for none
	bad  string // fields
	// keeps is the type of the resource that must stay as the good object made it; the resource is hostile/NAME.
	keeps string
}

var (
	policyKind  = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"}
	peerKind    = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"}
	jwtKind     = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "RequestAuthentication"}
	entryKind   = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "ServiceEntry"}
	vmKind      = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "WorkloadEntry"}
	gatewayKind = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "Gateway"}
	httpKind    = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}
	meshKind    = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
)

const goodPolicy = `spec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}`

// badPolicies are malformed beyond what the schema lets pass: each was good before, and the good one must stay in force.
var badPolicies = map[string]string{
	"a spec that is text":                "spec: all of them",
	"a spec that is a list":              "spec: [1, 2]",
	"rules that are an object":           "spec: {rules: {from: shop}}",
	"rules of numbers":                   "spec: {rules: [1, 2, 3]}",
	"an unknown action":                  "spec: {action: MAYBE, rules: [{}]}",
	"an action that is an object":        "spec: {action: {a: b}}",
	"a block of no address":              "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0.0/8]}}]}]}",
	"a block with too long a prefix":     "spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}",
	"a block of a zone":                  `spec: {rules: [{from: [{source: {ipBlocks: ["fe80::1%eth0"]}}]}]}`,
	"a port that is a word":              "spec: {rules: [{to: [{operation: {ports: [http]}}]}]}",
	"a port beyond all ports":            `spec: {rules: [{to: [{operation: {ports: ["65536"]}}]}]}`,
	"a negative port":                    `spec: {rules: [{to: [{operation: {ports: ["-1"]}}]}]}`,
	"a port of a number type":            "spec: {rules: [{to: [{operation: {ports: [{}]}}]}]}",
	"a source that is text":              "spec: {rules: [{from: [{source: shop}]}]}",
	"a condition without a key":          "spec: {rules: [{when: [{values: [a]}]}]}",
	"a condition without values":         "spec: {rules: [{when: [{key: source.ip}]}]}",
	"a condition on no address":          "spec: {rules: [{when: [{key: source.ip, values: [everywhere]}]}]}",
	"a condition on no port":             "spec: {rules: [{when: [{key: destination.port, values: [all]}]}]}",
	"a selector that is text":            "spec: {selector: app}",
	"labels that are numbers":            "spec: {selector: {matchLabels: {app: {deep: 1}}}}",
	"a service account with two slashes": "spec: {rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]}",
}

// badOthers are of all other kinds.
var badOthers = []hostile{
	{name: "a peer authentication of an unknown mode", kind: peerKind, good: "spec: {mtls: {mode: PERMISSIVE}}", bad: "spec: {mtls: {mode: SOMETIMES}}"},
	{name: "a peer authentication with a port that is a word", kind: peerKind, bad: "spec: {selector: {matchLabels: {app: web}}, portLevelMtls: {http: {mode: STRICT}}}"},
	{name: "a peer authentication with port 0", kind: peerKind, bad: `spec: {selector: {matchLabels: {app: web}}, portLevelMtls: {"0": {mode: STRICT}}}`},
	{name: "a peer authentication that is a list", kind: peerKind, bad: "spec: [STRICT]"},
	{name: "a peer authentication whose mode is a list", kind: peerKind, bad: "spec: {mtls: [STRICT]}"},
	{name: "a request authentication without an issuer", kind: jwtKind, bad: "spec: {jwtRules: [{jwks: '{'}]}"},
	{name: "a request authentication of text", kind: jwtKind, bad: "spec: all"},
	{name: "a service entry without hosts", kind: entryKind, bad: "spec: {ports: [{number: 80, name: http}]}"},
	{name: "a service entry with an impossible host", kind: entryKind, bad: `spec: {hosts: ["exa mple..com"], ports: [{number: 80, name: http}]}`},
	{name: "a service entry for every host", kind: entryKind, bad: `spec: {hosts: ["*"], ports: [{number: 80, name: http}], resolution: STATIC}`},
	{name: "a service entry with an impossible address", kind: entryKind, bad: "spec: {hosts: [a.example.com], addresses: [1.2.3.400], ports: [{number: 80, name: http}]}"},
	{name: "a service entry with a range beyond its family", kind: entryKind, bad: "spec: {hosts: [a.example.com], addresses: [1.2.3.0/40], ports: [{number: 80, name: http}]}"},
	{name: "a service entry with port 70000", kind: entryKind, bad: "spec: {hosts: [a.example.com], ports: [{number: 70000, name: http}]}"},
	{name: "a service entry of an unknown resolution", kind: entryKind, bad: "spec: {hosts: [a.example.com], resolution: GUESS, ports: [{number: 80, name: http}]}"},
	{name: "a service entry with an endpoint of no address", kind: entryKind, bad: "spec: {hosts: [a.example.com], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 300.1.1.1}]}"},
	{name: "a service entry whose ports are text", kind: entryKind, bad: "spec: {hosts: [a.example.com], ports: all}"},
	{name: "a workload entry without an address", kind: vmKind, bad: "spec: {ports: {http: 80}}"},
	{name: "a workload entry with a negative weight", kind: vmKind, bad: "spec: {address: 10.9.0.1, weight: -3}"},
	{name: "a workload entry with port 99999", kind: vmKind, bad: "spec: {address: 10.9.0.2, ports: {http: 99999}}"},
	{name: "a workload entry that is a number", kind: vmKind, bad: "spec: 7"},
	{name: "a gateway whose listeners are text", kind: gatewayKind, bad: "spec: {gatewayClassName: istio-waypoint, listeners: mesh}"},
	{name: "a gateway with port -1", kind: gatewayKind, bad: "spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: -1, protocol: HBONE}]}"},
	{name: "a route whose rules are text", kind: httpKind, bad: "spec: {rules: all}"},
	{name: "a route to a backend of no port", kind: httpKind, bad: "spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: [{backendRefs: [{name: web, port: 99999999999}]}]}"},
	{name: "mesh settings that are no YAML", kind: meshKind, bad: `data: {mesh: "{{{"}`},
	{name: "mesh settings with an impossible trust domain", kind: meshKind, bad: `data: {mesh: "trustDomain: \"Not A Domain!\""}`},
}

// hostiles lists all of them.
func hostiles() []hostile {
	all := append([]hostile(nil), badOthers...)
	for name, bad := range badPolicies {
		all = append(all, hostile{name: "a policy with " + name, kind: policyKind, good: goodPolicy, bad: bad, keeps: delta.Authorization})
	}
	return all
}

// yaml is the object with some fields.
func (h hostile) yaml(name, fields string) string {
	apiVersion, kind := h.kind.ToAPIVersionAndKind()
	namespace := "hostile"
	if h.kind == meshKind {
		name, namespace = "istio", system
	}
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: %s}\n%s\n", apiVersion, kind, name, namespace, fields)
}

func TestHostileObjectsChangeNothingAndAreTold(t *testing.T) {
	all := hostiles()
	if len(all) < 40 {
		t.Errorf("only %d hostile objects", len(all))
	}
	w := newWorld(t, worldSpec{CRDs: []apiserver.Definitions{apiserver.IstioCRDs.Loose(), apiserver.GatewayCRDs.Loose()}})
	w.apply(pod("hostile", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	for i, h := range all {
		name := fmt.Sprintf("hostile-%d", i)
		t.Run(h.name, func(t *testing.T) {
			h.check(t, w, r, p, name)
		})
	}
	w.apply(pod("hostile", "last", "node1", "10.1.0.99", true))
	p.workload(podName("hostile", "last"), healthy)
	p.undisturbed()
	r.stays()
}

func (h hostile) check(t *testing.T, w *world, r *replica, p *proxy, name string) {
	of := *w
	of.t = t
	var before string
	if h.good != "" {
		of.apply(h.yaml(name, h.good))
	}
	if h.keeps != "" {
		p.policy("hostile/"+name, func(*security.Authorization) error { before = p.known[h.keeps]["hostile/"+name].version; return nil })
	}
	read, err := os.ReadFile(r.log)
	if err != nil {
		t.Fatal(err)
	}
	of.apply(h.yaml(name, h.bad))
	of.eventually("a word about it", func(ctx context.Context) error {
		return errors.Join(r.alive(), h.told(ctx, &of, r, name, len(read)))
	})
	if h.keeps == "" {
		return
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	if after := p.known[h.keeps]["hostile/"+name].version; after != before {
		t.Errorf("what was good is in force no more: version %q, was %q", after, before)
	}
}

// told looks for a condition of the object, an event about it, or a line in the log.
func (h hostile) told(ctx context.Context, w *world, r *replica, name string, from int) error {
	namespace := "hostile"
	if h.kind == meshKind {
		name, namespace = "istio", system
	}
	text, err := os.ReadFile(r.log)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text[from:])) {
		if containsAll(line, []string{name}) && (strings.Contains(line, "WARN") || strings.Contains(line, "ERROR")) {
			return nil
		}
	}
	events, err := w.Client().CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		return err
	}
	if len(events.Items) > 0 {
		return nil
	}
	object, err := w.Get(ctx, h.kind, namespace, name)
	if err != nil {
		return err
	}
	if conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions"); len(conditions) > 0 {
		return nil
	}
	return errors.New("no condition, no event, no line in the log")
}
