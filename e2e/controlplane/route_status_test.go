package controlplane

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func gatewayAPI(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: kind}
}

// parents are what a route's status says, as "controller Kind/name: Type=Status Reason, …" for each parent.
func (w *world) parents(ctx context.Context, kind, name string) ([]string, error) {
	return w.saysOf(ctx, kind, name, "parents", "parentRef")
}

// saysOf is what the status of an object of the shop says of others, in a list whose entries have a field that refers to those.
func (w *world) saysOf(ctx context.Context, kind, name, list, field string) ([]string, error) {
	o, err := w.Get(ctx, gatewayAPI(kind), "shop", name)
	if err != nil {
		return nil, err
	}
	var all []string
	parents, _, _ := unstructured.NestedSlice(o.Object, "status", list)
	for _, each := range parents {
		parent, _ := each.(map[string]any)
		ref, _ := parent[field].(map[string]any)
		conditions, _ := parent["conditions"].([]any)
		var said []string
		for _, each := range conditions {
			c, _ := each.(map[string]any)
			said = append(said, fmt.Sprintf("%s=%s %s", c["type"], c["status"], c["reason"]))
			if parent["controllerName"] == "istio.io/mesh-controller" && c["observedGeneration"] != o.GetGeneration() {
				return nil, fmt.Errorf("condition %s is about generation %v, the object's is %d", c["type"], c["observedGeneration"], o.GetGeneration())
			}
		}
		slices.Sort(said)
		all = append(all, fmt.Sprintf("%s %s/%s: %s", parent["controllerName"], ref["kind"], ref["name"], strings.Join(said, ", ")))
	}
	slices.Sort(all)
	return all, nil
}

// told waits for what a route's status should say.
func (w *world) told(kind, name string, want ...string) {
	w.t.Helper()
	slices.Sort(want)
	w.eventually("the status of "+kind+" "+name, func(ctx context.Context) error {
		have, err := w.parents(ctx, kind, name)
		if err == nil && !slices.Equal(have, want) {
			err = fmt.Errorf("have\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
		}
		return err
	})
}

const (
	ours    = "istio.io/mesh-controller "
	inForce = "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, ResolvedWaypoints=True ResolvedWaypoints"
)

// routesOf lists, by what is right or wrong with it, a route's kind, its fields, and what it is told.
var routesOf = map[string]struct {
	kind, spec string
	want       []string
}{
	"http": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}`,
		[]string{ours + "Service/web: " + inForce}},
	"grpc": {"GRPCRoute", `{parentRefs: [{group: "", kind: Service, name: grpc}], rules: [{backendRefs: [{name: grpc, port: 80}]}]}`,
		[]string{ours + "Service/grpc: " + inForce}},
	"tls": {"TLSRoute", `{parentRefs: [{group: "", kind: Service, name: tls}], hostnames: [tls.shop.example.com], rules: [{backendRefs: [{name: tls, port: 80}]}]}`,
		[]string{ours + "Service/tls: " + inForce}},
	"tcp": {"TCPRoute", `{parentRefs: [{group: "", kind: Service, name: tcp}], rules: [{backendRefs: [{name: tcp, port: 80}]}]}`,
		[]string{ours + "Service/tcp: " + inForce}},
	"several-parents": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web}, {group: "", kind: Service, name: none}, {group: "", kind: Service, name: plain}, {group: networking.istio.io, kind: ServiceEntry, name: outside}, {name: wp}, {name: elsewhere}], rules: [{backendRefs: [{name: web, port: 80}]}]}`,
		[]string{
			ours + "Service/web: " + inForce,
			ours + "Service/none: Accepted=False NoMatchingParent, ResolvedRefs=True ResolvedRefs",
			ours + "Service/plain: Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, ResolvedWaypoints=False MissingUseWaypointLabel",
			ours + "ServiceEntry/outside: " + inForce,
			ours + "Gateway/wp: Accepted=True Accepted, ResolvedRefs=True ResolvedRefs",
		}},
	"another-port": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web, port: 81}], rules: [{backendRefs: [{name: web, port: 80}]}]}`,
		[]string{ours + "Service/web: Accepted=False NoMatchingParent, ResolvedRefs=True ResolvedRefs, ResolvedWaypoints=True ResolvedWaypoints"}},
	"no-waypoint": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: lost}], rules: [{backendRefs: [{name: lost, port: 80}]}]}`,
		[]string{ours + "Service/lost: Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, ResolvedWaypoints=False NoMatchingParent"}},
	"no-backend": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: none, port: 80}]}]}`,
		[]string{ours + "Service/web: Accepted=True Accepted, ResolvedRefs=False BackendNotFound, ResolvedWaypoints=True ResolvedWaypoints"}},
	"no-reference-grant": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: vault, namespace: bank, port: 80}]}]}`,
		[]string{ours + "Service/web: Accepted=True Accepted, ResolvedRefs=False RefNotPermitted, ResolvedWaypoints=True ResolvedWaypoints"}},
	"no-reference-grant-for-a-mirror": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: vault, namespace: bank, port: 80}}}], backendRefs: [{name: web, port: 80}]}]}`,
		[]string{ours + "Service/web: Accepted=True Accepted, ResolvedRefs=False RefNotPermitted, ResolvedWaypoints=True ResolvedWaypoints"}},
	"another-kind": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{group: storage.example.com, kind: Bucket, name: b, port: 80}]}]}`,
		[]string{ours + "Service/web: Accepted=True Accepted, ResolvedRefs=False InvalidKind, ResolvedWaypoints=True ResolvedWaypoints"}},
	"conflict": {"TCPRoute", `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}`,
		[]string{ours + "Service/web: Accepted=False Conflicted, ResolvedRefs=True ResolvedRefs, ResolvedWaypoints=True ResolvedWaypoints"}},
	"unknown-filter": {"HTTPRoute", `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a.example.com, kind: F, name: f}}], backendRefs: [{name: web, port: 80}]}, {backendRefs: [{name: web, port: 80}]}]}`,
		[]string{ours + "Service/web: Accepted=True Accepted, PartiallyInvalid=True UnsupportedValue, ResolvedRefs=False InvalidKind, ResolvedWaypoints=True ResolvedWaypoints"}},
}

// services of namespace shop, with a waypoint unless something else is said, and one of another.
func routedServices() string {
	text := ""
	for name, labels := range map[string]string{
		"web": "", "grpc": "", "tls": "", "tcp": "", "lost": "istio.io/use-waypoint: typo", "plain": "istio.io/use-waypoint: none",
	} {
		text += fmt.Sprintf("---\n{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: shop, labels: {%s}}, spec: {ports: [{port: 80}]}}\n", name, labels)
	}
	return text + `---
{apiVersion: v1, kind: Service, metadata: {name: vault, namespace: bank}, spec: {ports: [{port: 80}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec: {hosts: [outside.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
`
}

func TestRoutesAreToldWhatBecameOfThemAtEachParent(t *testing.T) {
	w := newWorld(t)
	text := waypoint("shop", "10.1.9.1") + routedServices()
	for name, c := range routesOf {
		text += fmt.Sprintf("---\n{apiVersion: gateway.networking.k8s.io/v1, kind: %s, metadata: {name: %s, namespace: shop}, spec: %s}\n", c.kind, name, c.spec)
	}
	w.apply(text)
	w.start(replicaSpec{}).ready()
	for name, c := range routesOf {
		t.Run(name, func(t *testing.T) {
			of := *w
			of.t = t
			of.told(c.kind, name, c.want...)
		})
	}
}

func TestWhatARouteIsToldFollowsWhatItRefersTo(t *testing.T) {
	w := newWorld(t)
	w.apply(waypoint("shop", "10.1.9.1") + routedServices() + `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: vault, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: vault, namespace: bank, port: 80}]}]}
status: {parents: [{controllerName: example.com/theirs, parentRef: {kind: Gateway, name: ingress}, conditions: [{type: Accepted, status: "True", reason: Accepted, message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}]}]}
`)
	w.start(replicaSpec{}).ready()
	const theirs = "example.com/theirs Gateway/ingress: Accepted=True Accepted"
	about := func(refs string) string {
		return ours + "Service/web: Accepted=True Accepted, ResolvedRefs=" + refs + ", ResolvedWaypoints=True ResolvedWaypoints"
	}
	w.told("HTTPRoute", "vault", theirs, about("False RefNotPermitted"))
	grant := `
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: shop, namespace: bank}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service}]}
`
	w.apply(grant)
	w.told("HTTPRoute", "vault", theirs, about("True ResolvedRefs"))
	w.delete(grant)
	w.told("HTTPRoute", "vault", theirs, about("False RefNotPermitted"))

	w.delete(`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}`)
	w.told("HTTPRoute", "vault", theirs, ours+"Service/web: Accepted=False NoMatchingParent, ResolvedRefs=False RefNotPermitted")
	// Once no parent is the mesh's, nothing of it stays there.
	w.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: vault, namespace: shop}
spec: {parentRefs: [{name: ingress}], rules: [{backendRefs: [{name: vault, namespace: bank, port: 80}]}]}
`)
	w.told("HTTPRoute", "vault", theirs)
}
