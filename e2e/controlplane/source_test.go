package controlplane

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/e2e/delta"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// followed is one kind of object: what it says at first, then, and what a proxy sees of it before it came, meanwhile, and
// after it went.
type followed struct {
	yaml, then                   string
	before, first, second, after func(*proxy)
}

// webPod checks something of the pod that most of these objects are about.
func webPod(what string, have func(*workload.Workload) any, want any) func(*proxy) {
	return func(p *proxy) {
		p.w.t.Helper()
		p.workload(podName("shop", "web"), func(w *workload.Workload) error {
			if got := have(w); fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("%s is %v, want %v", what, got, want)
			}
			return nil
		})
	}
}

// webService checks something of its service.
func webService(what string, have func(*workload.Service) any, want any) func(*proxy) {
	return func(p *proxy) {
		p.w.t.Helper()
		p.service(serviceName("shop", "web"), func(s *workload.Service) error {
			if got := have(s); fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("%s is %v, want %v", what, got, want)
			}
			return nil
		})
	}
}

func zone(w *workload.Workload) any { return w.GetLocality().GetZone() }

func policies(w *workload.Workload) any { return strings.Join(w.AuthorizationPolicies, " ") }

func modes(s *workload.Service) any { return s.GetLoadBalancing().GetRoutingPreference() }

// kinds are those that a proxy sees something of.
func kinds() map[string]followed {
	object := func(apiVersion, kind, metadata, rest string) string {
		return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata: {%s}\n%s\n", apiVersion, kind, metadata, rest)
	}
	node := func(zone string) string {
		return object("v1", "Node", "name: node9, labels: {topology.kubernetes.io/zone: "+zone+"}", "")
	}
	namespace := func(distribution string) string {
		return object("v1", "Namespace", "name: shop, annotations: {networking.istio.io/traffic-distribution: "+distribution+"}", "")
	}
	service := func(port int) string {
		return object("v1", "Service", "name: other, namespace: shop", fmt.Sprintf("spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: %d}]}", port))
	}
	slice := func(address string) string {
		return object("discovery.k8s.io/v1", "EndpointSlice", "name: by-hand, namespace: shop, labels: {kubernetes.io/service-name: web}",
			"addressType: IPv4\nports: [{name: '', port: 9090, protocol: TCP}]\nendpoints: [{addresses: ["+address+"], conditions: {ready: true}}]")
	}
	policy := func(app string) string {
		return object("security.istio.io/v1", "AuthorizationPolicy", "name: some, namespace: shop", "spec: {selector: {matchLabels: {app: "+app+"}}}")
	}
	peer := func(mode string) string {
		return object("security.istio.io/v1", "PeerAuthentication", "name: default, namespace: shop", "spec: {mtls: {mode: "+mode+"}}")
	}
	endpoint := func(address string) string {
		return "Kubernetes/discovery.k8s.io/EndpointSlice/shop/by-hand/" + address
	}
	ports := func(want string) func(*proxy) {
		return webPod("ports of other", func(w *workload.Workload) any {
			var list []string
			for _, port := range w.GetServices()[serviceName("shop", "other")].GetPorts() {
				list = append(list, fmt.Sprint(port.ServicePort, ">", port.TargetPort))
			}
			return strings.Join(list, " ")
		}, want)
	}
	return map[string]followed{
		"Node": {node("a"), node("b"), webPod("zone", zone, ""), webPod("zone", zone, "a"), webPod("zone", zone, "b"), webPod("zone", zone, "")},
		"Pod": {
			pod("shop", "till", "node9", "10.1.0.7", false), pod("shop", "till", "node9", "10.1.0.7", true), nil,
			func(p *proxy) { p.workload(podName("shop", "till"), healthy) }, func(p *proxy) { p.workload(podName("shop", "till"), enrolled) },
			func(p *proxy) { p.gone(delta.Address, podName("shop", "till")) },
		},
		"Namespace": {
			namespace("PreferClose"), namespace("PreferSameNode"), webService("preference", modes, "[]"),
			webService("preference", modes, "[NETWORK REGION ZONE]"), webService("preference", modes, "[NETWORK REGION ZONE SUBZONE NODE]"), nil,
		},
		"Service": {service(8080), service(8081), ports(""), ports("80>8080"), ports("80>8081"), ports("")},
		"EndpointSlice": {
			slice("192.0.2.7"), slice("192.0.2.8"), nil,
			func(p *proxy) { p.workload(endpoint("192.0.2.7"), nil) },
			func(p *proxy) {
				p.workload(endpoint("192.0.2.8"), nil)
				p.gone(delta.Address, endpoint("192.0.2.7"))
			},
			func(p *proxy) { p.gone(delta.Address, endpoint("192.0.2.8")) },
		},
		"AuthorizationPolicy": {
			policy("web"), policy("till"), webPod("policies", policies, ""), webPod("policies", policies, "shop/some"), webPod("policies", policies, ""),
			func(p *proxy) { p.gone(delta.Authorization, "shop/some") },
		},
		"PeerAuthentication": {
			peer("STRICT"), peer("PERMISSIVE"), webPod("policies", policies, ""),
			webPod("policies", policies, "istio-system/istio_converted_static_strict"), webPod("policies", policies, ""), webPod("policies", policies, ""),
		},
	}
}

// TestEachKindComesChangesAndGoes also while the control plane looks, which is told of each step by a watch, and finds the
// same when it starts anew.
func TestEachKindComesChangesAndGoes(t *testing.T) {
	t.Run("of a server that streams", func(t *testing.T) { eachKind(newWorld(t)) })
	t.Run("of a server that lists", func(t *testing.T) {
		spec := everything()
		spec.Lists = true
		eachKind(ownWorld(t, spec))
	})
}

func eachKind(w *world) {
	w.apply(pod("shop", "web", "node9", "10.1.0.1", true) + `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`)
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	see := func(check func(*proxy)) {
		if check != nil {
			check(p)
		}
	}
	for name, kind := range kinds() {
		w.t.Run(name, func(*testing.T) {
			see(kind.before)
			w.apply(kind.yaml)
			see(kind.first)
			w.apply(kind.then)
			see(kind.second)
			if name != "Namespace" { // it has the rest
				w.delete(kind.then)
			}
			see(kind.after)
		})
	}
	p.undisturbed()
}

func TestAPodThatHasEndedIsGone(t *testing.T) {
	for _, phase := range []string{"Succeeded", "Failed"} {
		t.Run(phase, func(t *testing.T) {
			w := newWorld(t)
			job := pod("shop", "job", "node1", "10.1.0.1", true)
			w.apply(job)
			p := w.join(w.start(replicaSpec{}).ready(), "node1").settled()
			p.workload(podName("shop", "job"), healthy)
			w.apply(strings.Replace(job, "phase: Running", "phase: "+phase, 1))
			p.gone(delta.Address, podName("shop", "job"))
		})
	}
}

// TestAPolicyThatNeverMadeSenseLetsNobodyIn holds for a control plane that starts: it doesn't know what was meant before.
func TestAPolicyThatNeverMadeSenseLetsNobodyIn(t *testing.T) {
	w := newWorld(t)
	broken := `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: shop}
spec: {action: DENY, selector: {matchLabels: {app: web}}, rules: [{from: [{source: {ipBlocks: [everywhere]}}]}]}
`
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true) + broken)
	r := w.start(replicaSpec{}).ready()
	r.logged("object not used", "lets nobody in", "shop/broken", "spec.rules[0].from[0].source.ipBlocks[0]")
	p := w.join(r, "node1").settled()
	p.policy("shop/broken", func(a *security.Authorization) error {
		if a.Action != security.Action_ALLOW || len(a.Groups) > 0 {
			return fmt.Errorf("it is %v", a)
		}
		return nil
	})
	webPod("policies", policies, "shop/broken")(p)
	w.apply(strings.Replace(broken, "everywhere", "192.0.2.0/24", 1))
	p.policy("shop/broken", func(a *security.Authorization) error {
		if a.Action != security.Action_DENY || len(a.Groups) != 1 {
			return fmt.Errorf("it is %v", a)
		}
		return nil
	})
}
