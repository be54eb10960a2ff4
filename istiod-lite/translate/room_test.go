package translate_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
)

// TestWhoFindsNoRoomIsTold: a pod and a workload entry are endpoints of what fits, the rest has a condition.
func TestWhoFindsNoRoomIsTold(t *testing.T) {
	ports := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("{number: %d, name: p%d}", 1000+i, i)
		}
		return strings.Join(list, ", ")
	}
	entry := func(name, created string, n int) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: %s, namespace: demo, creationTimestamp: %q}\n"+
			"spec: {hosts: [%[1]s.example.com], resolution: STATIC, workloadSelector: {labels: {app: a}}, ports: [%[3]s]}\n---\n", name, created, ports(n))
	}
	input := entry("young", "2026-01-02T00:00:00Z", 1000) + entry("old", "2026-01-01T00:00:00Z", 2000) + entry("small", "2026-01-03T00:00:00Z", 1) +
		"apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: demo}\nspec: {selector: {app: a}, ports: [{port: 80}]}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: demo, labels: {app: a}}\nstatus: {podIP: 10.1.0.1}\n---\n" +
		"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: demo}\nspec: {address: 10.9.0.1, labels: {app: a}}\n"
	var all struct {
		Conditions map[string][]string
		Workloads  map[string]struct{ Services map[string]any }
	}
	text := describe(t, golden.MustRead(t, []byte(input)), cluster, translate.Mesh{ClusterID: "Kubernetes"})
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	endpoints := make(map[string]map[string]bool)
	for name, w := range all.Workloads {
		endpoints[name] = make(map[string]bool)
		for service := range w.Services {
			endpoints[name][service] = true
		}
	}
	said, err := yaml.Marshal(map[string]any{"conditions": all.Conditions, "endpoints": endpoints})
	if err != nil {
		t.Fatal(err)
	}
	golden.Match(t, string(said), "room.yaml")
}
