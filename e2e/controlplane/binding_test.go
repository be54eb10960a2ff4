package controlplane

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// says waits for what an object's condition says, such as "False WaypointIsNotReady".
func (w *world) says(kind schema.GroupVersionKind, namespace, name, condition, want string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("condition %s of %s %s", condition, kind.Kind, name), func(ctx context.Context) error {
		o, err := w.Get(ctx, kind, namespace, name)
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		have := "nothing"
		for _, each := range conditions {
			if c, _ := each.(map[string]any); c["type"] == condition {
				have = fmt.Sprintf("%s %s", c["status"], c["reason"])
			}
		}
		if have != want {
			return fmt.Errorf("it says %s, want %s", have, want)
		}
		return nil
	})
}

// bound waits for what a service's status says of its waypoint.
func (w *world) bound(namespace, service, want string) {
	w.t.Helper()
	w.says(schema.GroupVersionKind{Version: "v1", Kind: "Service"}, namespace, service, "istio.io/WaypointBound", want)
}

// refusing wants a service's waypoint to be one that no proxy can find.
func refusing(s *workload.Service) error {
	host := s.GetWaypoint().GetHostname().GetHostname()
	if !strings.HasSuffix(host, ".invalid") {
		return fmt.Errorf("its waypoint is %v", s.GetWaypoint())
	}
	return nil
}

// through wants a service's waypoint to be at a host, or that there is none.
func through(want string) func(*workload.Service) error {
	return func(s *workload.Service) error {
		if have := s.GetWaypoint().GetHostname().GetHostname(); have != want {
			return fmt.Errorf("its waypoint is at %q, want %q", have, want)
		}
		return nil
	}
}

// lostServices are bound to waypoints that can't be used: one isn't there, one was never ready, one isn't for them.
const lostServices = `---
{apiVersion: v1, kind: Service, metadata: {name: missing, namespace: shop, labels: {istio.io/use-waypoint: typo}}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: waits, namespace: shop, labels: {istio.io/use-waypoint: slow}}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: denied, namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: bank}}, spec: {ports: [{port: 80}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: slow, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`

func TestNothingGoesRoundAWaypointThatCannotBeUsed(t *testing.T) {
	w := newWorld(t)
	w.apply(waypoint("shop", "10.1.9.1") + waypoint("bank", "10.1.9.2") + routed("shop", "10.1.0.1") + lostServices)
	strict := w.start(replicaSpec{}).ready()
	p := w.join(strict, "node1").settled()
	for name, reason := range map[string]string{"missing": "WaypointIsNotReady", "waits": "WaypointIsNotReady", "denied": "AttachmentDenied"} {
		p.service(serviceName("shop", name), refusing)
		w.bound("shop", name, "False "+reason)
	}
	p.service(serviceName("shop", "web"), through("wp.shop.svc.cluster.local"))
	w.bound("shop", "web", "True WaypointAccepted")

	// It is used from when it is ready, and when it goes, nothing goes round it.
	w.apply(lostServices + "status: {addresses: [{type: Hostname, value: slow.shop.svc.cluster.local}]}\n")
	p.service(serviceName("shop", "waits"), through("slow.shop.svc.cluster.local"))
	w.bound("shop", "waits", "True WaypointAccepted")
	w.delete("{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: slow, namespace: shop}}")
	p.service(serviceName("shop", "waits"), refusing)
	w.bound("shop", "waits", "False WaypointIsNotReady")

	// Who wants the other way says so, and the condition is the same.
	strict.stop()
	p = w.join(w.start(replicaSpec{Name: "istiod-lenient", Args: []string{"--bypass-missing-waypoints"}}).ready(), "node1").settled()
	for name, reason := range map[string]string{"missing": "WaypointIsNotReady", "waits": "WaypointIsNotReady", "denied": "AttachmentDenied"} {
		p.service(serviceName("shop", name), through(""))
		w.bound("shop", name, "False "+reason)
	}
}

func TestPoliciesAreToldWhetherAWaypointEnforcesThem(t *testing.T) {
	w := newWorld(t)
	text := waypoint("shop", "10.1.9.1") + routedServices()
	policies := map[string]struct{ spec, want string }{
		"of-service": {`{targetRefs: [{kind: Service, group: "", name: web}], rules: [{}]}`, "True Accepted"},
		"of-gateway": {`{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}], rules: [{}]}`, "True Accepted"},
		"not-bound":  {`{targetRefs: [{kind: Service, group: "", name: plain}], rules: [{}]}`, "False AncestorNotBound"},
		"lost":       {`{targetRefs: [{kind: Service, group: "", name: lost}], rules: [{}]}`, "False AncestorNotBound"},
		"of-nothing": {`{targetRefs: [{kind: Service, group: "", name: none}], rules: [{}]}`, "False TargetNotFound"},
		"of-pods":    {`{selector: {matchLabels: {app: web}}, rules: [{}]}`, "nothing"},
	}
	issuers := map[string]struct{ spec, want string }{
		"of-service": {`{targetRefs: [{kind: Service, group: "", name: web}], jwtRules: [{issuer: "https://a.example.com"}]}`, "True Accepted"},
		"no-keys":    {`{targetRefs: [{kind: Service, group: "", name: web}], jwtRules: [{issuer: nobody}]}`, "True UnsupportedValue"},
		"of-pods":    {`{selector: {matchLabels: {app: web}}, jwtRules: [{issuer: "https://a.example.com"}]}`, "False TargetNotFound"},
	}
	for name, c := range policies {
		text += fmt.Sprintf("---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: %s, namespace: shop}, spec: %s}\n", name, c.spec)
	}
	for name, c := range issuers {
		text += fmt.Sprintf("---\n{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: %s, namespace: shop}, spec: %s}\n", name, c.spec)
	}
	w.apply(text)
	w.start(replicaSpec{}).ready()
	w.says(policyKind, "shop", "of-pods", "ZtunnelAccepted", "True Accepted")
	for name, c := range policies {
		w.says(policyKind, "shop", name, "WaypointAccepted", c.want)
	}
	for name, c := range issuers {
		w.says(jwtKind, "shop", name, "WaypointAccepted", c.want)
	}
	w.delete("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}")
	w.says(policyKind, "shop", "of-service", "WaypointAccepted", "False TargetNotFound")
	w.says(jwtKind, "shop", "of-service", "WaypointAccepted", "False TargetNotFound")
}
