package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

var (
	classOfWaypoints   = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "GatewayClass"}
	waypointAccount    = schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}
	waypointService    = schema.GroupVersionKind{Version: "v1", Kind: "Service"}
	waypointDeployment = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	waypointScaler     = schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}
	waypointBudget     = schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"}
)

// waypointGateway is a Gateway of the waypoints' class; the rest are fields of its metadata and spec.
func waypointGateway(name, metadata, spec string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: shop%s}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]%s}
`, name, metadata, spec)
}

const withParameters = `, infrastructure: {labels: {team: shop}, parametersRef: {group: "", kind: ConfigMap, name: changes}}`

// parametersOf is the ConfigMap that changes the Gateway's objects.
func parametersOf(data string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: changes, namespace: shop}\ndata: {" + data + "}\n"
}

// instanceOf is a ready pod as the Deployment of a waypoint has it.
func instanceOf(waypoint string) string {
	return strings.Replace(pod("shop", waypoint+"-1", "node1", "10.1.0.77", false), "labels: {", "labels: {gateway.networking.k8s.io/gateway-name: "+waypoint+", ", 1)
}

// object waits for an object of the shop that passes the check, which may be nil.
func (w *world) object(kind schema.GroupVersionKind, name string, check func(*unstructured.Unstructured) error) *unstructured.Unstructured {
	w.t.Helper()
	namespace := "shop"
	if kind == classOfWaypoints {
		namespace = ""
	}
	var found *unstructured.Unstructured
	w.eventually(kind.Kind+" "+name, func(ctx context.Context) (err error) {
		if found, err = w.Get(ctx, kind, namespace, name); err != nil || check == nil {
			return err
		}
		return check(found)
	})
	return found
}

// goes waits until an object of the shop isn't there.
func (w *world) goes(kind schema.GroupVersionKind, name string) {
	w.t.Helper()
	w.eventually(kind.Kind+" "+name+" to go", w.absent(kind, name))
}

func (w *world) absent(kind schema.GroupVersionKind, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := w.Get(ctx, kind, "shop", name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	}
}

func gatewayAddress(kind, value string) map[string]any {
	return map[string]any{"type": kind, "value": value}
}

// says checks a condition, given as "Type=Status Reason", and words of its message.
func says(want string, words ...string) func(*unstructured.Unstructured) error {
	return func(o *unstructured.Unstructured) error {
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, each := range list {
			c, _ := each.(map[string]any)
			if fmt.Sprintf("%v=%v %v", c["type"], c["status"], c["reason"]) != want || !containsAll(fmt.Sprint(c["message"]), words) {
				continue
			}
			if o.GetKind() == "Gateway" && c["observedGeneration"] != o.GetGeneration() {
				return fmt.Errorf("%s of generation %v, not %d", want, c["observedGeneration"], o.GetGeneration())
			}
			return nil
		}
		return fmt.Errorf("no condition %s %q in %v", want, words, list)
	}
}

// field checks a field of an object.
func field(want any, path ...string) func(*unstructured.Unstructured) error {
	return func(o *unstructured.Unstructured) error {
		if have, _, _ := unstructured.NestedFieldNoCopy(o.Object, path...); fmt.Sprint(have) != fmt.Sprint(want) {
			return fmt.Errorf("%s is %v, want %v", strings.Join(path, "."), have, want)
		}
		return nil
	}
}

// everyKind are those of all objects that are made for a waypoint.
var everyKind = []schema.GroupVersionKind{waypointAccount, waypointDeployment, waypointService, waypointScaler, waypointBudget}

// deployed makes a waypoint of which every object comes, changes and goes.
func (w *world) deployed() {
	w.t.Helper()
	with := func(team string) string { return strings.Replace(withParameters, "team: shop", "team: "+team, 1) }
	w.apply(parametersOf(`horizontalPodAutoscaler: "spec: {maxReplicas: 4}", podDisruptionBudget: "spec: {minAvailable: 1}"`) + waypointGateway("waypoint", "", with("shop")))
	for _, kind := range everyKind {
		w.object(kind, "waypoint", field("shop", "metadata", "labels", "team"))
	}
	w.apply(waypointGateway("waypoint", "", with("other")))
	for _, kind := range everyKind {
		w.object(kind, "waypoint", field("other", "metadata", "labels", "team"))
	}
	w.apply(waypointGateway("waypoint", ", annotations: {gateway.istio.io/name-override: other}", with("other")))
	for _, kind := range everyKind {
		w.object(kind, "other", nil)
		w.goes(kind, "waypoint")
	}
	w.object(classOfWaypoints, "istio-waypoint", says("Accepted=True Accepted"))
	w.object(gatewayKind, "waypoint", says("Accepted=True Accepted"))
}

func TestAGatewayIsDeployedAndGoesWithAllThatWasMadeForIt(t *testing.T) {
	w := newWorld(t)
	w.start(replicaSpec{}).ready()
	w.object(classOfWaypoints, "istio-waypoint", func(o *unstructured.Unstructured) error {
		return errors.Join(says("Accepted=True Accepted")(o), field("istio.io/mesh-controller", "spec", "controllerName")(o))
	})
	w.apply(waypointGateway("waypoint", "", ""))
	owner := w.object(gatewayKind, "waypoint", says("Programmed=False Pending", "Deployment shop/waypoint")).GetUID()
	for _, kind := range []schema.GroupVersionKind{waypointAccount, waypointDeployment, waypointService} {
		made := w.object(kind, "waypoint", nil)
		if refs := made.GetOwnerReferences(); len(refs) != 1 || refs[0].UID != owner {
			t.Errorf("owners of %s: %v", kind.Kind, refs)
		}
	}

	w.apply(instanceOf("waypoint") + "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: r, namespace: shop}, spec: {parentRefs: [{name: waypoint}], rules: [{backendRefs: [{name: waypoint, port: 15008}]}]}}")
	ip, _, _ := unstructured.NestedString(w.object(waypointService, "waypoint", nil).Object, "spec", "clusterIP")
	w.object(gatewayKind, "waypoint", func(o *unstructured.Unstructured) error {
		addresses, _, _ := unstructured.NestedSlice(o.Object, "status", "addresses")
		listeners, _, _ := unstructured.NestedSlice(o.Object, "status", "listeners")
		if want := fmt.Sprint([]any{gatewayAddress("Hostname", "waypoint.shop.svc.cluster.local"), gatewayAddress("IPAddress", ip)}); !strings.HasPrefix(fmt.Sprint(addresses), strings.TrimSuffix(want, "]")) {
			return fmt.Errorf("addresses %v", addresses)
		}
		if len(listeners) != 1 || listeners[0].(map[string]any)["attachedRoutes"] != int64(1) {
			return fmt.Errorf("listeners %v", listeners)
		}
		return errors.Join(says("Accepted=True Accepted")(o), says("Programmed=True Programmed")(o), says("ResolvedRefs=True ResolvedRefs")(o))
	})

	w.delete(waypointGateway("waypoint", "", ""))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the collector notices new kinds of owners every 30 s
	defer cancel()
	for _, kind := range []schema.GroupVersionKind{waypointAccount, waypointDeployment, waypointService} {
		w.await(ctx, kind.Kind+" to go", w.absent(kind, "waypoint"))
	}
	w.delete("{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: istio-waypoint}}")
	w.object(classOfWaypoints, "istio-waypoint", says("Accepted=True Accepted"))
}

func TestObjectsOfAWaypointFollowTheGatewayAndItsParameters(t *testing.T) {
	w := newWorld(t)
	w.start(replicaSpec{}).ready()
	w.apply(waypointGateway("waypoint", "", ""))
	w.object(waypointService, "waypoint", nil)

	w.apply(waypointGateway("waypoint", "", withParameters))
	w.object(gatewayKind, "waypoint", says("Accepted=False InvalidParameters", "there is no ConfigMap shop/changes"))
	w.apply(parametersOf(`deployment: "spec: {replicas: 3}", horizontalPodAutoscaler: "spec: {minReplicas: 2, maxReplicas: 4}", podDisruptionBudget: "spec: {minAvailable: 1}"`))
	w.object(waypointDeployment, "waypoint", field(3, "spec", "replicas"))
	w.object(waypointDeployment, "waypoint", field("shop", "spec", "template", "metadata", "labels", "team"))
	w.object(waypointScaler, "waypoint", field(4, "spec", "maxReplicas"))
	w.object(waypointBudget, "waypoint", field(1, "spec", "minAvailable"))
	w.object(gatewayKind, "waypoint", says("Accepted=True Accepted"))

	t.Log("what the schema refuses, and what only the API server does")
	for message, bad := range map[string]string{
		`unknown field "spec.replica"`: `deployment: "spec: {replica: 5}"`,
		"spec.replicas":                `deployment: "spec: {replicas: -5}", service: "metadata: {labels: {half: written}}"`,
	} {
		w.apply(parametersOf(bad))
		w.object(gatewayKind, "waypoint", says("Accepted=False InvalidParameters", message))
	}
	w.object(waypointDeployment, "waypoint", field(3, "spec", "replicas"))
	w.object(waypointService, "waypoint", field(nil, "metadata", "labels", "half"))
	w.object(waypointScaler, "waypoint", nil)

	t.Log("what isn't asked for any more")
	w.apply(parametersOf(`deployment: "spec: {replicas: 2}"`))
	w.object(waypointDeployment, "waypoint", field(2, "spec", "replicas"))
	w.goes(waypointScaler, "waypoint")
	w.goes(waypointBudget, "waypoint")

	t.Log("another name")
	w.apply(waypointGateway("waypoint", `, annotations: {gateway.istio.io/name-override: other}`, ""))
	for _, kind := range []schema.GroupVersionKind{waypointAccount, waypointDeployment, waypointService} {
		w.object(kind, "other", nil)
		w.goes(kind, "waypoint")
	}

	t.Log("defaults of the class")
	w.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: istio-system, labels: {gateway.istio.io/defaults-for-class: istio-waypoint}}, data: {deployment: 'spec: {replicas: 7}'}}")
	w.object(waypointDeployment, "other", field(7, "spec", "replicas"))
}

func TestObjectsOfAWaypointAreRepaired(t *testing.T) {
	w := newWorld(t)
	first := w.start(replicaSpec{Name: "first"}).ready()
	w.apply(waypointGateway("waypoint", "", ""))
	w.object(waypointService, "waypoint", nil)
	w.start(replicaSpec{Name: "second"}).ready()
	spoil := func() {
		t.Helper()
		before := w.object(waypointDeployment, "waypoint", nil).GetUID()
		w.delete("{apiVersion: apps/v1, kind: Deployment, metadata: {name: waypoint, namespace: shop}}\n---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: waypoint, namespace: shop}}")
		w.apply("{apiVersion: v1, kind: Service, metadata: {name: waypoint, namespace: shop, labels: {gateway.istio.io/managed: me}}, spec: {selector: {app: mine}, ports: [{port: 15008}]}}")
		w.apply("{apiVersion: v1, kind: Service, metadata: {name: waypoint, namespace: shop, labels: {gateway.istio.io/managed: istio.io-mesh-controller}}, spec: {selector: {app: mine}, ports: [{port: 15008}]}}")
		w.object(waypointDeployment, "waypoint", func(o *unstructured.Unstructured) error {
			if o.GetUID() == before {
				return errors.New("it is the old one")
			}
			return nil
		})
		w.object(waypointAccount, "waypoint", nil)
		w.object(waypointService, "waypoint", field("waypoint", "spec", "selector", "gateway.networking.k8s.io/gateway-name"))
	}
	spoil()
	first.kill()
	spoil()
}

func TestAWaypointTakesOverNothingOfOthers(t *testing.T) {
	w := newWorld(t)
	w.apply(`
{apiVersion: v1, kind: ServiceAccount, metadata: {name: admin, namespace: shop, labels: {mine: "yes"}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: web}]}}}
`)
	w.start(replicaSpec{}).ready()
	w.apply(waypointGateway("web", "", "") + waypointGateway("waypoint", ", annotations: {gateway.istio.io/service-account: admin}", ""))
	w.object(gatewayKind, "web", says("Accepted=False ObjectNotManaged", "Deployment web isn't made for this Gateway"))
	w.object(gatewayKind, "waypoint", says("Accepted=False ObjectNotManaged", "ServiceAccount admin isn't made for this Gateway"))
	w.object(waypointDeployment, "web", field("web", "spec", "selector", "matchLabels", "app"))
	w.object(waypointAccount, "admin", func(o *unstructured.Unstructured) error {
		if len(o.GetOwnerReferences()) > 0 || len(o.GetLabels()) != 1 {
			return fmt.Errorf("it was taken over: %v", o)
		}
		return nil
	})
	for kind, name := range map[schema.GroupVersionKind]string{waypointAccount: "web", waypointDeployment: "waypoint", waypointService: "waypoint"} {
		if err := w.absent(kind, name)(t.Context()); err != nil {
			t.Errorf("%s %s was made: %v", kind.Kind, name, err)
		}
	}

	t.Log("handed over")
	w.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: admin, namespace: shop, labels: {gateway.istio.io/managed: istio.io-mesh-controller, gateway.networking.k8s.io/gateway-name: waypoint}}}")
	w.object(waypointDeployment, "waypoint", field("admin", "spec", "template", "spec", "serviceAccountName"))
	w.object(gatewayKind, "waypoint", says("Accepted=True Accepted"))
}

// Bindings by namespace, by service and by pod lead to a Gateway that was deployed, and say so.
func TestWhatIsBoundPassesTheWaypointThatIsDeployed(t *testing.T) {
	w := newWorld(t)
	bound := strings.Replace(pod("shop", "own", "node1", "10.1.0.2", true), "labels: {", "labels: {istio.io/use-waypoint: waypoint, ", 1)
	w.apply(shop + pod("shop", "web", "node1", "10.1.0.1", true) + bound + `
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}}
---
{apiVersion: v1, kind: Service, metadata: {name: named, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: without, namespace: shop, labels: {istio.io/use-waypoint: none}}, spec: {selector: {app: web}, ports: [{port: 80}]}}
`)
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	w.object(waypointService, "web", says("istio.io/WaypointBound=False WaypointIsNotReady", "does not exist"))
	w.apply(waypointGateway("waypoint", ", labels: {istio.io/waypoint-for: all}", ""))
	w.object(waypointService, "web", says("istio.io/WaypointBound=False WaypointIsNotReady", "its Gateway has no address yet"))
	w.object(waypointService, "waypoint", nil)
	w.apply(instanceOf("waypoint"))
	w.object(waypointService, "web", says("istio.io/WaypointBound=True WaypointAccepted"))
	w.object(waypointService, "named", says("istio.io/WaypointBound=True WaypointAccepted"))
	found, err := w.Client().CoreV1().Services("shop").Get(t.Context(), "without", metav1.GetOptions{})
	if err != nil || len(found.Status.Conditions) > 0 {
		t.Errorf("the service without a waypoint: %v %v", found.Status.Conditions, err)
	}
	passes := func(address *workload.GatewayAddress) error {
		if address.GetHostname().GetHostname() != "waypoint.shop.svc.cluster.local" || address.GetHboneMtlsPort() != 15008 {
			return fmt.Errorf("its waypoint is %v", address)
		}
		return nil
	}
	p.service(serviceName("shop", "web"), func(s *workload.Service) error { return passes(s.GetWaypoint()) })
	p.service(serviceName("shop", "named"), func(s *workload.Service) error { return passes(s.GetWaypoint()) })
	for _, name := range []string{"web", "own"} {
		p.workload(podName("shop", name), func(w *workload.Workload) error { return passes(w.GetWaypoint()) })
	}
	p.service(serviceName("shop", "without"), func(s *workload.Service) error {
		if s.GetWaypoint() != nil {
			return fmt.Errorf("it has waypoint %v", s.GetWaypoint())
		}
		return nil
	})

	t.Log("while no instance is ready, nothing goes past it")
	w.delete(instanceOf("waypoint"))
	w.object(gatewayKind, "waypoint", says("Programmed=False NoResources"))
	p.service(serviceName("shop", "web"), func(s *workload.Service) error { return passes(s.GetWaypoint()) })
}

func TestGatewaysThatCannotBeMeantAreTold(t *testing.T) {
	w := newWorld(t)
	w.start(replicaSpec{}).ready()
	long := strings.Repeat("a", 64)
	labels := make([]string, 0, 9)
	for i := range 8 {
		labels = append(labels, fmt.Sprintf("l%d/%s: %q", i, strings.Repeat("k", 63), strings.Repeat("v", 63)))
	}
	huge := ", infrastructure: {labels: {" + strings.Join(labels, ", ") + "}}"
	w.apply(waypointGateway(long, "", "") + waypointGateway("type", ", annotations: {networking.istio.io/service-type: ExternalName}", "") + waypointGateway("huge", "", huge) +
		strings.Replace(waypointGateway("http", "", ""), "port: 15008, protocol: HBONE", "port: 80, protocol: HTTP", 1) +
		waypointGateway("image", "", `, infrastructure: {parametersRef: {group: "", kind: ConfigMap, name: changes}}`) +
		parametersOf(`deployment: "spec: {template: {spec: {containers: [{name: istio-proxy, image: ''}]}}}"`))
	w.object(gatewayKind, long, says("Accepted=False Invalid", "the name has 64 letters"))
	w.object(gatewayKind, "type", says("Accepted=False Invalid", "service-type", "ExternalName"))
	w.object(gatewayKind, "http", says("Accepted=False ListenersNotValid", "protocol HBONE and port 15008"))
	w.object(gatewayKind, "image", says("Accepted=False InvalidParameters", "image: Required value"))
	w.object(gatewayKind, "huge", says("Accepted=True Accepted"))
	for _, name := range []string{long, "type", "http", "image"} {
		for _, kind := range []schema.GroupVersionKind{waypointAccount, waypointDeployment, waypointService} {
			if err := w.absent(kind, name)(t.Context()); err != nil {
				t.Errorf("%s %s was made: %v", kind.Kind, name, err)
			}
		}
	}
}
