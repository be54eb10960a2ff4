package controlplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// waypoint is a namespace with a waypoint for its services, which is ready and has one instance, as YAML.
func waypoint(namespace, ip string) string {
	return strings.NewReplacer("NAMESPACE", namespace, "ADDRESS", ip).Replace(`---
{apiVersion: v1, kind: Namespace, metadata: {name: NAMESPACE, labels: {istio.io/use-waypoint: wp}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint}
spec: {controllerName: istio.io/mesh-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: NAMESPACE}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: wp.NAMESPACE.svc.cluster.local}]}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: wp, namespace: NAMESPACE}}
---
apiVersion: v1
kind: Service
metadata: {name: wp, namespace: NAMESPACE, labels: {gateway.istio.io/managed: istio.io-mesh-controller}}
spec: {selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{port: 15008}]}
---
apiVersion: v1
kind: Pod
metadata: {name: wp-NAMESPACE, namespace: NAMESPACE, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {nodeName: node1, serviceAccountName: wp, containers: [{name: istio-proxy, image: waypoint}]}
status: {phase: Running, podIP: ADDRESS, podIPs: [{ip: ADDRESS}], conditions: [{type: Ready, status: "True"}]}
`)
}

// routed is a service with a pod, a route to it, and policies about its requests and about its pods.
func routed(namespace, ip string) string {
	return strings.ReplaceAll(`---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: NAMESPACE}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v1}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: requests, namespace: NAMESPACE}
spec:
  targetRefs: [{kind: Service, group: "", name: web}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: pods, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: web}}
  rules: [{from: [{source: {namespaces: [NAMESPACE]}}]}]
`, "NAMESPACE", namespace) + pod(namespace, "web", "node1", ip, true)
}

// waypointIdentity is that of a namespace's waypoint.
func (w *world) waypointIdentity(namespace string) delta.Identity {
	w.t.Helper()
	name := "wp-" + namespace
	return delta.Identity{
		Kind: "waypoint", Pod: name, Namespace: namespace, Account: "wp", Node: "node1",
		Token: w.token(apiserver.Token{Namespace: namespace, Account: "wp", Pod: name}),
	}
}

// joinWaypoint connects the instance of a namespace's waypoint.
func (w *world) joinWaypoint(r *replica, namespace string) *proxy {
	w.t.Helper()
	return w.joinAs(r, w.waypointIdentity(namespace), delta.Authorization, delta.L7, delta.Address).settled()
}

// has waits until the proxy has exactly these resources of a type.
func (p *proxy) has(typeURL string, names ...string) {
	p.w.t.Helper()
	slices.Sort(names)
	p.until(strings.Join(names, " "), func() error {
		if have := slices.Sorted(maps.Keys(p.known[typeURL])); !slices.Equal(have, names) {
			return fmt.Errorf("have %s", strings.Join(have, " "))
		}
		return nil
	})
}

// backendInvalid waits until the only backend of a route is in use, or isn't.
func (p *proxy) backendInvalid(name string, want bool) {
	p.w.t.Helper()
	p.until(name, func() error {
		found, ok := p.known[delta.L7][name]
		if !ok {
			return errors.New("it isn't there")
		}
		resource := &l7.Resource{}
		if err := proto.Unmarshal(found.body, resource); err != nil {
			return err
		}
		if why := resource.GetRoute().GetRules()[0].GetBackends()[0].GetInvalid(); (why != "") != want {
			return fmt.Errorf("backend is invalid for %q", why)
		}
		return nil
	})
}

// own is what a waypoint sees of its namespace alone.
func (p *proxy) own(namespace string, others ...string) {
	p.w.t.Helper()
	p.has(delta.L7, "HTTPRoute/"+namespace+"/web@Service/"+namespace+"/web:80", "AuthorizationPolicy/"+namespace+"/requests")
	p.has(delta.Authorization, namespace+"/pods")
	p.has(delta.Address, append(others,
		serviceName(namespace, "web"), serviceName(namespace, "wp"), podName(namespace, "web"), podName(namespace, "wp-"+namespace))...)
}

func TestAWaypointLearnsOnlyWhatIsItsOwn(t *testing.T) {
	w := newWorld(t)
	w.apply(waypoint("shop", "10.1.9.1") + waypoint("bank", "10.1.9.2") + routed("shop", "10.1.0.1") + routed("bank", "10.1.0.2"))
	r := w.start(replicaSpec{}).ready()
	shop, bank := w.joinWaypoint(r, "shop"), w.joinWaypoint(r, "bank")
	shop.own("shop")
	bank.own("bank")

	// What it routes to comes along, once the owner of that permits it.
	toBank := `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules: [{backendRefs: [{name: web, namespace: bank, port: 80}]}]
`
	w.apply(toBank)
	shop.backendInvalid("HTTPRoute/shop/web@Service/shop/web:80", true)
	shop.own("shop")
	grant := `
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: shop, namespace: bank}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service}]}
`
	w.apply(grant)
	shop.backendInvalid("HTTPRoute/shop/web@Service/shop/web:80", false)
	shop.own("shop", serviceName("bank", "web"), podName("bank", "web"))
	w.delete(grant)
	shop.backendInvalid("HTTPRoute/shop/web@Service/shop/web:80", true)
	shop.own("shop")

	// Of a service that goes without a waypoint, it sees nothing any more.
	w.apply(`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: none}}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}`)
	shop.has(delta.L7)
	shop.has(delta.Address, serviceName("shop", "wp"), podName("shop", "wp-shop"))
	bank.own("bank")
	for name := range maps.Keys(bank.versions()[delta.Address]) {
		if strings.Contains(name, "shop/") {
			t.Errorf("the waypoint of bank knows %s", name)
		}
	}
}

// The names outside that a waypoint stands before come with the addresses at which pods call them, those that were given to them too, and with
// where they are: listed, found by DNS, or chosen by labels. They come from whatever namespace, and nothing else of that does.
func TestAWaypointKnowsTheEntriesBoundToItWithAllTheirAddresses(t *testing.T) {
	w := newWorld(t)
	entry := func(name, labels, spec string) string {
		return fmt.Sprintf("---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: %[1]s, namespace: apps, labels: {%[2]s}}, "+
			"spec: {hosts: [%[1]s.example.com], ports: [{number: 80, name: http, protocol: HTTP}], %[3]s}}\n", name, labels, spec)
	}
	const abroad = "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: egress"
	w.apply(strings.Replace(waypoint("egress", "10.1.9.1"), "protocol: HBONE", "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}", 1) +
		entry("listed", abroad, "addresses: [240.0.0.7], resolution: STATIC, endpoints: [{address: 10.9.0.1}, {address: 10.9.0.2}]") +
		entry("found", abroad, "resolution: DNS") +
		entry("chosen", abroad, "resolution: STATIC, workloadSelector: {labels: {app: vm}}") +
		entry("anywhere", abroad, "addresses: [240.0.0.8], resolution: NONE") +
		entry("other", "", "resolution: STATIC, endpoints: [{address: 10.9.0.3}]") +
		"---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: apps}, spec: {address: 10.9.0.4, labels: {app: vm}}}\n" +
		"---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: else, namespace: apps}, spec: {address: 10.9.0.5, labels: {app: else}}}\n")
	egress := w.joinWaypoint(w.start(replicaSpec{}).ready(), "egress")
	own := []string{serviceName("egress", "wp"), podName("egress", "wp-egress")}
	of := func(kind, name string) string { return "Kubernetes/networking.istio.io/" + kind + "/apps/" + name }
	egress.has(delta.Address, append(own,
		"apps/listed.example.com", of("ServiceEntry", "listed/10.9.0.1"), of("ServiceEntry", "listed/10.9.0.2"),
		"apps/found.example.com", of("ServiceEntry", "found/found.example.com"),
		"apps/chosen.example.com", of("WorkloadEntry", "vm"), "apps/anywhere.example.com")...)
	for name, addresses := range map[string]int{"listed": 1, "anywhere": 1, "found": 2, "chosen": 2} { // those given to an entry are of both families
		egress.service("apps/"+name+".example.com", func(s *workload.Service) error {
			if len(s.GetAddresses()) != addresses {
				return fmt.Errorf("its addresses are %v, want %d", s.GetAddresses(), addresses)
			}
			return nil
		})
	}
	w.apply(entry("found", "", "resolution: DNS"))
	egress.gone(delta.Address, "apps/found.example.com")
	egress.gone(delta.Address, of("ServiceEntry", "found/found.example.com"))
}

func TestOnlyAPodOfTheGatewayIsItsWaypoint(t *testing.T) {
	w := newWorld(t)
	w.apply(waypoint("shop", "10.1.9.1") + waypoint("bank", "10.1.9.2") + pod("shop", "web", "node1", "10.1.0.1", true) +
		"---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: shop}}")
	r := w.start(replicaSpec{}).ready()
	w.joinWaypoint(r, "shop")
	stranger := delta.Identity{
		Kind: "waypoint", Pod: "web", Namespace: "shop", Account: "web", Node: "node1",
		Token: w.token(apiserver.Token{Namespace: "shop", Account: "web", Pod: "web"}),
	}
	w.refused(r, stranger, codes.PermissionDenied)

	impostor := stranger
	impostor.Pod = "wp-shop"
	w.refused(r, impostor, codes.PermissionDenied)

	another := w.waypointIdentity("shop")
	another.Token = w.waypointIdentity("bank").Token
	w.refused(r, another, codes.PermissionDenied)

	node := w.waypointIdentity("shop")
	node.Kind = "ztunnel"
	w.refused(r, node, codes.PermissionDenied)
}
