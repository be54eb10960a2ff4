package node

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// gate is the pod in which the waypoint of namespace app runs, spare the one of its second instance, where there is one.
const gate, spare = "gate", "spare"

// waypointSpec is a cluster of its own, with a service in namespace app for which a waypoint is meant: a client on the first node, a server on
// either, the waypoint on the second.
func waypointSpec(name, dir string, gates ...string) demo.Spec {
	spec := sharedSpec(dir, "")
	spec.Name = mine() + name
	spec.DNS = false
	for _, pod := range gates {
		spec.Pods = append(spec.Pods, demo.Pod{
			Name: pod, Namespace: "app", Account: gate, Node: "node2",
			Labels: map[string]string{"gateway.networking.k8s.io/gateway-name": gate, demo.Label: "none"},
		})
	}
	spec.Services = append(spec.Services,
		demo.Service{Name: gate, Namespace: "app", Selector: map[string]string{"gateway.networking.k8s.io/gateway-name": gate}, Ports: map[uint16]uint16{15008: 15008}})
	return spec
}

const gateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: app}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: gate.app.svc.cluster.local}]}
`

// withWaypoint starts a cluster whose namespace app is meshed, and whose services there go through the waypoint.
func withWaypoint(t *testing.T, name string, more ...string) *demo.Cluster {
	t.Helper()
	gates := append([]string{gate}, more...)
	c := start(t, waypointSpec(name, filepath.Join(filepath.Dir(programs.Tulle), name), gates...))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	steps := []func() error{
		func() error { return c.Apply("gateway", gateway) },
		func() error { return c.LabelNamespace("app", demo.Label, demo.Ambient) },
		func() error { return c.LabelNamespace("app", "istio.io/use-waypoint", gate) },
		func() error { return c.AwaitMeshed(ctx, true, client, near, far) },
	}
	for _, pod := range gates {
		steps = append(steps, func() error { return c.StartWaypoint(ctx, pod) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, c)
			lines, _ := c.LogLines(demo.Waypoint(gate))
			t.Logf("waypoint:\n%s", strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	})
	return c
}

// counted waits until a proxy, in a node or a pod, tells of a metric with all of the words.
func counted(t *testing.T, c *demo.Cluster, place, metric string, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s of %s with %q", metric, place, words), func(ctx context.Context) error {
		lines, err := c.MetricLines(ctx, place, metric, words...)
		if err == nil && len(lines) == 0 {
			all, _ := c.MetricLines(ctx, place, metric)
			err = fmt.Errorf("there is none, but\n%s", strings.Join(all, "\n"))
		}
		return err
	})
}

// What goes to a service with a waypoint passes that, and only that: each of the three proxies tells so.
func TestAServiceWithAWaypointIsReachedThroughIt(t *testing.T) {
	c := withWaypoint(t, "through")
	for family := range 2 {
		eventually(t, "an answer through the waypoint", func(ctx context.Context) error {
			return reaches(ctx, c, client, vip(c, far, family, 80))
		})
	}
	const gateID, clientID, farID = "spiffe://cluster.local/ns/app/sa/gate", "spiffe://cluster.local/ns/app/sa/client", "spiffe://cluster.local/ns/app/sa/far"
	counted(t, c, "node1", "istio_tcp_connections_opened_total",
		`reporter="source"`, `source_principal="`+clientID+`"`, `destination_principal="`+gateID+`"`, `destination_service="far.app.svc.cluster.local"`)
	counted(t, c, "node2", "istio_tcp_connections_opened_total",
		`reporter="destination"`, `source_principal="`+gateID+`"`, `destination_principal="`+farID+`"`, `destination_service="far.app.svc.cluster.local"`)
	counted(t, c, gate, "istio_requests_total",
		`reporter="waypoint"`, `source_principal="`+clientID+`"`, `source_workload="client"`, `destination_principal="`+farID+`"`, `destination_workload="far"`, `response_code="200"`)
	direct, err := c.MetricLines(t.Context(), "node1", "istio_tcp_connections_opened_total", `reporter="source"`, `destination_principal="`+farID+`"`)
	if err != nil || len(direct) > 0 {
		t.Errorf("connections went past the waypoint: %v\n%s", err, strings.Join(direct, "\n"))
	}
}

// What a person writes into the mesh folder is what the waypoint does, by way of the control plane.
func TestAWaypointDoesWhatRoutesAndPoliciesSay(t *testing.T) {
	c := withWaypoint(t, "does")
	to := "http://" + vip(c, far, 0, 80).String()
	answers := func(what, path, want string) {
		t.Helper()
		eventually(t, what, func(ctx context.Context) error {
			text, err := c.Get(ctx, client, to+path)
			if err != nil {
				text = err.Error()
			}
			if !strings.Contains(text, want) {
				return fmt.Errorf("%q, want %q", text, want)
			}
			return nil
		})
	}
	answers("the service itself", "/", far)
	if err := c.Apply("route", `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: far, namespace: app}
spec:
  parentRefs: [{group: "", kind: Service, name: far, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /near}}]
    backendRefs: [{name: near, port: 80}]
  - matches: [{path: {type: Exact, value: /}}]
    backendRefs: [{name: far, port: 80}]
`); err != nil {
		t.Fatal(err)
	}
	answers("another service, by the route", "/near", near)
	answers("what no rule matches", "/elsewhere", "404")
	answers("what stays", "/", far)
	if err := c.Apply("policy", `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: far, namespace: app}
spec:
  targetRefs: [{group: "", kind: Service, name: far}]
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}], to: [{operation: {paths: ["/near*"]}}]}]
`); err != nil {
		t.Fatal(err)
	}
	answers("a refusal by policy", "/near", "403")
	logged(t, c, demo.Waypoint(gate), "request complete", `policy="app/far"`, "response_code=403")
	answers("what isn't denied", "/", far)
}

// An instance that ends tells its clients, which go to another one.
func TestAnInstanceOfAWaypointEndsWithoutAFailedRequest(t *testing.T) {
	c := withWaypoint(t, "ends", spare)
	to := vip(c, far, 0, 80)
	var group sync.WaitGroup
	var answered atomic.Int32
	stop := make(chan struct{})
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := reaches(t.Context(), c, client, to); err != nil {
					t.Errorf("after %d requests: %v", answered.Load(), err)
					return
				}
				answered.Add(1)
			}
		})
	}
	more := func(n int32) {
		t.Helper()
		at := answered.Load()
		eventually(t, "more requests", func(context.Context) error {
			if answered.Load() < at+n && !t.Failed() {
				return fmt.Errorf("%d", answered.Load())
			}
			return nil
		})
	}
	more(100)
	for _, pod := range []string{gate, spare} {
		counted(t, c, pod, "istio_requests_total", `reporter="waypoint"`)
	}
	if err := c.Stop(t.Context(), demo.Waypoint(gate), 15*time.Second); err != nil {
		t.Fatal(err)
	}
	more(100)
	close(stop)
	group.Wait()
}
