package translate_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	decision "github.com/tulle-mesh/tulle/mesh/policy"
)

// TestWhoFindsNoRoomIsTold: a pod and a workload entry are endpoints of what fits, the first that doesn't and all after it have a condition.
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

// TestAWorkloadOfTooManyPoliciesLetsNobodyIn, since without one of them somebody might be let in; and others are as they were.
func TestAWorkloadOfTooManyPoliciesLetsNobodyIn(t *testing.T) {
	const spec = "{selector: {matchLabels: {app: a}}, rules: [{}]}"
	var text strings.Builder
	for i := range model.MaxPolicies {
		text.WriteString(policy(fmt.Sprint("p", i), spec))
	}
	last := policy("last", spec)
	pods := pod("a", "10.1.0.1", "app: a", "") + pod("b", "10.1.0.2", "app: b", "")
	admits := func(text, ip string) bool {
		table := tableOf(t, []byte(text))
		facts := decision.Facts{Source: netip.MustParseAddrPort("10.1.0.9:1000"), Destination: netip.MustParseAddrPort(ip + ":80")}
		return decision.Evaluate(table, table.WorkloadAt("", netip.MustParseAddr(ip)), facts).Allowed
	}
	for _, c := range []struct {
		name, text, ip string
		want           bool
	}{
		{"as many as there may be", pods + text.String(), "10.1.0.1", true},
		{"one more", pods + text.String() + last, "10.1.0.1", false},
		{"another workload", pods + text.String() + last, "10.1.0.2", true},
	} {
		if got := admits(c.text, c.ip); got != c.want {
			t.Errorf("%s: let in %v", c.name, got)
		}
	}
	m := model.New(cluster)
	m.Apply(golden.MustRead(t, []byte(pods+text.String()+last)))
	notes := translate.Mesh{}.Object(m, model.Key{Kind: model.KindPod, Name: model.Name{Namespace: "demo", Name: "a"}}).Notes
	if len(notes) != 1 || !strings.Contains(notes[0].Text, "more than 1024 AuthorizationPolicies select it") {
		t.Errorf("told %v", notes)
	}
	// The policy that refuses goes with the last of them.
	shared := model.Key{Kind: model.KindStaticStrict}
	if had := len(translate.Mesh{}.Object(m, shared).Resources); had != 1 {
		t.Errorf("%d shared policies", had)
	}
	gone := m.Apply([]model.Change{{Key: model.Key{Kind: model.KindAuthorizationPolicy, Name: model.Name{Namespace: "demo", Name: "last"}}}})
	if !slices.Contains(gone, shared) || len(translate.Mesh{}.Object(m, shared).Resources) != 0 {
		t.Error("it stays")
	}
}
