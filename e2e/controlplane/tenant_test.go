package controlplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// crowding are objects of one tenant that are good one by one, and bad by their number or in combination.
var crowding = []struct {
	name   string
	number int
	object func(i int) string
}{
	{"entries of the same hosts", 80, func(i int) string {
		return fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: same%d, namespace: tenant}, spec: {hosts: [%s], addresses: [198.51.100.7], resolution: STATIC, ports: [{number: 80, name: http}]}}",
			i, listed(256, "h%d.example.com"))
	}},
	{"entries of many hosts without ports, of a pod", 10, func(i int) string {
		return fmt.Sprintf("{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: hosts%d, namespace: tenant}, spec: {hosts: [%s], addresses: [198.51.100.8], resolution: STATIC, workloadSelector: {labels: {app: crowded}}}}",
			i, strings.ReplaceAll(listed(256, "h%d.eN.example.com"), "eN", fmt.Sprint("e", i)))
	}},
	{"services without TCP ports, of a pod", 300, func(i int) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: udp%d, namespace: tenant}, spec: {clusterIP: None, selector: {app: crowded}, ports: [{port: 53, protocol: UDP}]}}", i)
	}},
	{"services by slices, of a pod", 30, func(i int) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: bare%d, namespace: tenant}, spec: {clusterIP: None, ports: [%s]}}", i, listed(100, "{name: p%[1]d, port: 1%03[1]d}"))
	}},
	{"slices of services, of a pod", 60, func(i int) string {
		return fmt.Sprintf("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: slice%d, namespace: tenant, labels: {kubernetes.io/service-name: bare%d}}, addressType: IPv4, ports: [%s], endpoints: [{addresses: [10.1.0.2], targetRef: {kind: Pod, namespace: tenant, name: crowded, uid: UID}}]}",
			i, i/2, listed(100, "{name: p%[1]d, port: 2%03[1]d}"))
	}},
	{"policies of a pod", 200, func(i int) string {
		return fmt.Sprintf("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: policy%d, namespace: tenant}, spec: {selector: {matchLabels: {app: crowded}}, action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]}}", i)
	}},
}

// TestOneTenantHoldsNobodyUp: while such objects come, what changes elsewhere reaches proxies in time, and a pod that all of them
// are about stays within bounds.
func TestOneTenantHoldsNobodyUp(t *testing.T) {
	const inTime = 15 * time.Second // on a machine that has much else to do
	w := newWorld(t)
	crowded := pod("tenant", "crowded", "node1", "10.1.0.2", true)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true) + crowded)
	made, err := w.Client().CoreV1().Pods("tenant").Get(t.Context(), "crowded", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := w.start(replicaSpec{}).ready()
	p := w.join(r, "node1").settled()
	for i, each := range crowding {
		for n := range each.number {
			w.apply(strings.ReplaceAll(each.object(n), "UID", string(made.UID)))
		}
		began, revision := time.Now(), fmt.Sprint("r", i)
		w.apply(strings.Replace(pod("shop", "web", "node1", "10.1.0.1", true), "app: web}", "app: web, version: "+revision+"}", 1))
		p.workload(podName("shop", "web"), func(w *workload.Workload) error {
			if w.CanonicalRevision != revision {
				return fmt.Errorf("its revision is %q", w.CanonicalRevision)
			}
			return nil
		})
		if took := time.Since(began); took > inTime {
			t.Errorf("after %d %s, a change of another pod took %s", each.number, each.name, took)
		}
	}
	p.workload(podName("tenant", "crowded"), func(w *workload.Workload) error {
		bySelectors, bySlices := 0, 0
		for name, ports := range w.Services {
			if strings.HasPrefix(name, "tenant/bare") {
				bySlices += max(1, len(ports.Ports))
			} else {
				bySelectors += max(1, len(ports.Ports))
			}
		}
		if bySelectors != 300+6*256 || bySlices != 20*100 { // of 2,048 each
			return fmt.Errorf("it has %d ports by selectors and %d by slices", bySelectors, bySlices)
		}
		if len(w.AuthorizationPolicies) != 200 {
			return fmt.Errorf("it has %d policies", len(w.AuthorizationPolicies))
		}
		return nil
	})
	r.stays()
}
