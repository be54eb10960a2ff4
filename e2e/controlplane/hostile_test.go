package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// hostile is an object that a control plane must survive. It was good before, and that state must stay in force.
type hostile struct {
	name string
	kind schema.GroupVersionKind
	bad  string // fields
}

var (
	policyKind  = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"}
	peerKind    = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"}
	jwtKind     = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "RequestAuthentication"}
	entryKind   = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "ServiceEntry"}
	vmKind      = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "WorkloadEntry"}
	gatewayKind = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "Gateway"}
	httpKind    = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}
	grpcKind    = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "GRPCRoute"}
	tcpKind     = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "TCPRoute"}
	tlsKind     = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "TLSRoute"}
	meshKind    = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
)

// good are the fields that objects have before. NAME stands for the object's name.
var good = map[schema.GroupVersionKind]string{
	policyKind:  "spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}",
	peerKind:    "spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}",
	jwtKind:     "spec: {jwtRules: [{issuer: shop.example.com, jwksUri: 'https://shop.example.com/keys'}]}",
	entryKind:   "spec: {hosts: [NAME.example.com], addresses: [198.51.100.7], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 192.0.2.7}]}",
	vmKind:      "spec: {address: 192.0.2.8, ports: {http: 80}}",
	gatewayKind: "spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}",
	httpKind:    "spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}",
	grpcKind:    "spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}",
	tcpKind:     "spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}",
	tlsKind:     "spec: {parentRefs: [{kind: Service, group: '', name: web}], hostnames: [web.example.com], rules: [{backendRefs: [{name: web, port: 80}]}]}",
	meshKind:    `data: {mesh: "trustDomain: cluster.local"}`,
}

// badPolicies are malformed beyond what the schema lets pass.
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
	{name: "a peer authentication of an unknown mode", kind: peerKind, bad: "spec: {mtls: {mode: SOMETIMES}}"},
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
	{name: "a service entry that means too much for each workload", kind: entryKind, bad: fmt.Sprintf("spec: {hosts: [%s], resolution: STATIC, ports: [%s], workloadSelector: {labels: {app: web}}}", listed(256, "h%d.example.com"), listed(256, "{number: 1%03d, name: p}"))},
	{name: "a service entry whose ports are text", kind: entryKind, bad: "spec: {hosts: [a.example.com], ports: all}"},
	{name: "a workload entry without an address", kind: vmKind, bad: "spec: {ports: {http: 80}}"},
	{name: "a workload entry with a negative weight", kind: vmKind, bad: "spec: {address: 10.9.0.1, weight: -3}"},
	{name: "a workload entry with port 99999", kind: vmKind, bad: "spec: {address: 10.9.0.2, ports: {http: 99999}}"},
	{name: "a workload entry that is a number", kind: vmKind, bad: "spec: 7"},
	{name: "a gateway whose listeners are text", kind: gatewayKind, bad: "spec: {gatewayClassName: istio-waypoint, listeners: mesh}"},
	{name: "a gateway with port -1", kind: gatewayKind, bad: "spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: -1, protocol: HBONE}]}"},
	{name: "a route whose rules are text", kind: httpKind, bad: "spec: {rules: all}"},
	{name: "a route to a backend of no port", kind: httpKind, bad: "spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: [{backendRefs: [{name: web, port: 99999999999}]}]}"},
	{name: "a route of calls whose rules are text", kind: grpcKind, bad: "spec: {rules: all}"},
	{name: "a route of calls with a parent's port beyond all", kind: grpcKind, bad: "spec: {parentRefs: [{kind: Service, group: '', name: web, port: 70000}]}"},
	{name: "a route of streams that is a list", kind: tcpKind, bad: "spec: [all]"},
	{name: "a route of streams to a port below all", kind: tcpKind, bad: "spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: [{backendRefs: [{name: web, port: -1}]}]}"},
	{name: "a route of names that are numbers", kind: tlsKind, bad: "spec: {hostnames: [{a: 1}], rules: [{backendRefs: [{name: web, port: 80}]}]}"},
	{name: "mesh settings that are no YAML", kind: meshKind, bad: `data: {mesh: "{{{"}`},
	{name: "mesh settings with an impossible trust domain", kind: meshKind, bad: `data: {mesh: "trustDomain: \"Not A Domain!\""}`},
}

// listed writes n items of a list, each with its number.
func listed(n int, format string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(list, ", ")
}

// hostiles lists all of them.
func hostiles() []hostile {
	all := append([]hostile(nil), badOthers...)
	for name, bad := range badPolicies {
		all = append(all, hostile{"a policy with " + name, policyKind, bad})
	}
	return all
}

func TestHostileObjectsChangeNothingAndAreTold(t *testing.T) {
	all := hostiles()
	if len(all) < 40 {
		t.Errorf("only %d hostile objects", len(all))
	}
	w := ownWorld(t, worldSpec{CRDs: []apiserver.Definitions{apiserver.IstioCRDs.Loose(), apiserver.GatewayCRDs.Loose()}})
	w.apply(pod("hostile", "web", "node1", "10.1.0.1", true))
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	for i, each := range all {
		t.Run(each.name, func(t *testing.T) {
			attack{hostile: each, t: t, w: w.of(t), r: r, p: p, object: each.named(i), round: i}.run()
		})
	}
	p.undisturbed()
	r.stays()
}

// named is the namespace and name of an object.
func (h hostile) named(i int) [2]string {
	if h.kind == meshKind {
		return [2]string{system, "istio"}
	}
	return [2]string{"hostile", fmt.Sprintf("hostile-%d", i)}
}

// attack is one hostile object on its way.
type attack struct {
	hostile
	t      *testing.T
	w      *world
	r      *replica
	p      *proxy
	object [2]string // namespace, name
	round  int
}

func (a attack) run() {
	a.w.apply(a.yaml(good[a.kind]))
	a.w.eventually("it to be in force", func(ctx context.Context) error {
		text, err := a.inForce(ctx)
		if err == nil && text == "" {
			err = errors.New("it isn't")
		}
		return err
	})
	a.w.eventually("a word about the good state", a.mended)
	if a.kind == gatewayKind { // proxies know what it is made of
		a.p.service(serviceName(a.object[0], a.object[1]), nil)
	}
	force, told := a.state("before")
	a.w.apply(a.yaml(a.bad))
	a.w.eventually("a word about it", func(ctx context.Context) error { return errors.Join(a.r.alive(), a.told(ctx)) })
	if now, told2 := a.state("after"); now != force || !maps.EqualFunc(told, told2, maps.Equal) {
		a.t.Errorf("what was good is in force no more:\n%s\n%s\nproxies had %v\nand now %v", force, now, told, told2)
	}
	a.w.apply(a.yaml(good[a.kind]))
	a.w.eventually("the good state to be taken up again", a.mended)
	a.w.delete(a.yaml(""))
}

// yaml is the object with some fields.
func (a attack) yaml(fields string) string {
	apiVersion, kind := a.kind.ToAPIVersionAndKind()
	fields = strings.ReplaceAll(fields, "NAME", a.object[1])
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {namespace: %s, name: %s}\n%s\n", apiVersion, kind, a.object[0], a.object[1], fields)
}

// state is how the object is in force, and what proxies know, but for a pod that is changed now, so that all that happened
// before has reached them.
func (a attack) state(when string) (force string, versions map[string]map[string]string) {
	a.t.Helper()
	revision := fmt.Sprintf("r%d-%s", a.round, when)
	a.w.apply(strings.Replace(pod("hostile", "mark", "node1", "10.1.0.99", true), "app: mark}", "app: mark, version: "+revision+"}", 1))
	a.p.workload(podName("hostile", "mark"), func(w *workload.Workload) error {
		if w.CanonicalRevision != revision {
			return fmt.Errorf("its revision is %q", w.CanonicalRevision)
		}
		return nil
	})
	versions = a.p.versions()
	for _, each := range versions {
		delete(each, podName("hostile", "mark"))
	}
	force, err := a.inForce(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	return force, versions
}

// inForce is the object as the control plane has it, or nothing.
func (a attack) inForce(ctx context.Context) (string, error) {
	kind := a.kind.Kind
	if a.kind == meshKind {
		kind = "MeshConfig"
	}
	_, page, err := a.r.page(ctx, "/debug/configz?kind="+kind+"&namespace="+a.object[0])
	if err != nil {
		return "", err
	}
	var all map[string][]map[string]any
	if err := json.Unmarshal([]byte(page), &all); err != nil {
		return "", fmt.Errorf("%w in %s", err, page)
	}
	for _, each := range all[kind] {
		if each["Name"] == a.object[1] {
			text, err := json.Marshal(each)
			return string(text), err
		}
	}
	return "", nil
}

// told looks for an event about the object which says what is wrong and what that means, and where its kind has a status, for a
// condition that says the same of its present generation.
func (a attack) told(ctx context.Context) error {
	object, err := a.w.Get(ctx, a.kind, a.object[0], a.object[1])
	if err != nil {
		return err
	}
	events, err := a.w.Client().CoreV1().Events(a.object[0]).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(object.GetUID())})
	if err != nil {
		return err
	}
	if len(events.Items) != 1 {
		return fmt.Errorf("%d events", len(events.Items))
	}
	event := events.Items[0]
	if event.Type != "Warning" || event.Reason != "Invalid" || !containsAll(event.Message, []string{a.field(), "what it said before stays in force"}) {
		return fmt.Errorf("the event is %s %s: %s", event.Type, event.Reason, event.Message)
	}
	c := a.condition(object)
	wrong, _, _ := strings.Cut(event.Message, "; ")
	if reason := rejections[a.kind][1]; reason != "" && (c["status"] != "False" || c["reason"] != reason ||
		c["observedGeneration"] != object.GetGeneration() || !strings.HasPrefix(fmt.Sprint(c["message"]), wrong)) {
		return fmt.Errorf("the condition is %v, the event %q", c, event.Message)
	}
	return nil
}

// rejections are the condition by which objects of a kind are told that they aren't used as they are, and its reason. A route has
// one at each parent.
var rejections = map[schema.GroupVersionKind][2]string{
	policyKind: {"ZtunnelAccepted", "Invalid"}, jwtKind: {"WaypointAccepted", "Invalid"}, gatewayKind: {"Accepted", "Invalid"},
	httpKind: {"Accepted", "UnsupportedValue"}, grpcKind: {"Accepted", "UnsupportedValue"}, tcpKind: {"Accepted", "UnsupportedValue"},
	tlsKind: {"Accepted", "UnsupportedValue"},
}

// condition is the one that says whether the object is used as it is; of a route, that at its only parent.
func (a attack) condition(object *unstructured.Unstructured) map[string]any {
	if parents, _, _ := unstructured.NestedSlice(object.Object, "status", "parents"); len(parents) == 1 {
		object = &unstructured.Unstructured{Object: map[string]any{"status": parents[0]}}
	}
	return conditionOf(object, rejections[a.kind][0])
}

// field is where every mistake is.
func (a attack) field() string {
	if a.kind == meshKind {
		return "data.mesh"
	}
	return "spec"
}

// mended looks whether the condition tells of the present, good state.
func (a attack) mended(ctx context.Context) error {
	object, err := a.w.Get(ctx, a.kind, a.object[0], a.object[1])
	if err != nil || rejections[a.kind][0] == "" {
		return err
	}
	if c := a.condition(object); c["observedGeneration"] != object.GetGeneration() || c["reason"] == rejections[a.kind][1] {
		return fmt.Errorf("the condition is %v", c)
	}
	return nil
}

// A route that was never good isn't in force. Its writer hears so where a route's writer looks.
func TestARouteThatNeverMadeSenseSaysSoAtItsParents(t *testing.T) {
	w := ownWorld(t, worldSpec{CRDs: []apiserver.Definitions{apiserver.IstioCRDs.Loose(), apiserver.GatewayCRDs.Loose()}})
	w.apply("{apiVersion: v1, kind: Service, metadata: {namespace: hostile, name: web}, spec: {ports: [{name: http, port: 80}]}}")
	w.start(replicaSpec{}).ready()
	for i, kind := range []schema.GroupVersionKind{httpKind, grpcKind, tcpKind, tlsKind} {
		h := hostile{kind: kind, bad: "spec: {parentRefs: [{kind: Service, group: '', name: web}], rules: all}"}
		a := attack{hostile: h, t: t, w: w, object: h.named(i)}
		told := func(ctx context.Context) error {
			object, err := w.Get(ctx, kind, a.object[0], a.object[1])
			if err != nil {
				return err
			}
			if c := a.condition(object); c["status"] != "False" || c["reason"] != "UnsupportedValue" || c["observedGeneration"] != object.GetGeneration() ||
				!strings.HasSuffix(fmt.Sprint(c["message"]), "it isn't in force") {
				return fmt.Errorf("the condition of the %s is %v", kind.Kind, c)
			}
			return nil
		}
		w.apply(a.yaml(a.bad))
		w.eventually("a word about it", told)
		w.apply(a.yaml(good[kind]))
		w.eventually("the good state to be taken up", a.mended)
		w.delete(a.yaml(""))
	}
}
