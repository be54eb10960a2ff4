package policy_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/policy"
)

func TestAllowedByDefaultCostsNoAllocation(t *testing.T) {
	never := one(&security.Match{Principals: exact("cluster.local/ns/x/sa/y"), NotSourceIps: cidr(t, "10.0.0.0/8")})
	for name, policies := range map[string][]*security.Authorization{
		"no policies":          nil,
		"policies that do not": {deny("a", never), deny("b", one(&security.Match{ServiceAccounts: account("x", "y")}))},
	} {
		table, self := mesh(t, nil, policies...)
		facts := fromFrontend(t)
		allocs := testing.AllocsPerRun(100, func() {
			if !policy.Evaluate(table, self, facts).Allowed {
				t.Error("denied")
			}
		})
		if allocs > 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// 20 policies of five principals each, of which the last allows.
func BenchmarkEvaluate(b *testing.B) {
	var policies []*security.Authorization
	for n := range 20 {
		names := exact()
		for i := range 5 {
			names = append(names, exact(fmt.Sprintf("cluster.local/ns/web/sa/client-%d-%d", n, i))...)
		}
		policies = append(policies, allow(fmt.Sprintf("p%02d", n), one(&security.Match{Principals: names, DestinationPorts: []uint32{8080}})))
	}
	policies = append(policies, allow("z", one(&security.Match{Principals: suffix("/frontend")})))
	table, self := mesh(b, nil, policies...)
	facts := fromFrontend(b)
	b.ReportAllocs()
	for b.Loop() {
		policy.Evaluate(table, self, facts)
	}
}

// One policy each of the mesh, of the namespace and of the workload, so that a list of them has to be made.
func BenchmarkEvaluateAllScopes(b *testing.B) {
	never := one(&security.Match{Principals: exact("x")})
	global, own := deny("g", never), deny("s", never)
	global.Scope, own.Scope = security.Scope_GLOBAL, security.Scope_WORKLOAD_SELECTOR
	table, self := mesh(b, []string{"shop/s"}, global, deny("n", never), own)
	facts := fromFrontend(b)
	b.ReportAllocs()
	for b.Loop() {
		policy.Evaluate(table, self, facts)
	}
}

func BenchmarkEvaluateWithoutPolicies(b *testing.B) {
	table, self := mesh(b, nil)
	facts := fromFrontend(b)
	b.ReportAllocs()
	for b.Loop() {
		policy.Evaluate(table, self, facts)
	}
}
