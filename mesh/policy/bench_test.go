package policy_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/policy"
)

func TestAllowingCostsNoAllocation(t *testing.T) {
	never := one(&security.Match{Principals: exact("cluster.local/ns/x/sa/y"), NotSourceIps: cidr(t, "10.0.0.0/8")})
	frontend := one(&security.Match{Principals: suffix("/frontend")})
	for name, policies := range map[string][]*security.Authorization{
		"no policies":                    nil,
		"policies that do not":           {deny("a", never), deny("b", one(&security.Match{ServiceAccounts: account("x", "y")}))},
		"deny of all scopes that do not": allScopes(deny("g", never), deny("n", never), deny("s", never)),
		"allow of the mesh":              allScopes(allow("g", frontend), allow("n", never), deny("s", never)),
		"allow of the namespace":         allScopes(allow("g", never), allow("n", frontend), deny("s", never)),
		"allow of the workload":          allScopes(deny("g", never), allow("n", never), allow("s", frontend)),
	} {
		listed := []string{"shop/s"}
		if len(policies) < 3 {
			listed = nil
		}
		table, self := mesh(t, listed, policies...)
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

// allScopes makes three policies of the namespace shop those of the mesh, of the namespace and of the workload.
func allScopes(global, namespace, selector *security.Authorization) []*security.Authorization {
	global.Scope, selector.Scope = security.Scope_GLOBAL, security.Scope_WORKLOAD_SELECTOR
	return []*security.Authorization{global, namespace, selector}
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

// One policy each of the mesh, of the namespace and of the workload.
func BenchmarkEvaluateAllScopes(b *testing.B) {
	never := one(&security.Match{Principals: exact("x")})
	table, self := mesh(b, []string{"shop/s"}, allScopes(deny("g", never), deny("n", never), deny("s", never))...)
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

// Ten thousand policies of ten groups each, of which none concerns the client: of the whole mesh, and of other namespaces.
func BenchmarkEvaluateManyPolicies(b *testing.B) {
	for name, scope := range map[string]security.Scope{"mesh": security.Scope_GLOBAL, "namespaces": security.Scope_NAMESPACE} {
		b.Run(name, func(b *testing.B) {
			var policies []*security.Authorization
			for n := range 10_000 {
				p := deny(fmt.Sprintf("p%05d", n))
				for i := range 10 {
					p.Groups = append(p.Groups, one(&security.Match{Principals: exact(fmt.Sprintf("cluster.local/ns/web/sa/client-%d-%d", n, i)), DestinationPorts: []uint32{8080}}))
				}
				if p.Scope = scope; scope == security.Scope_NAMESPACE {
					p.Namespace = fmt.Sprintf("team-%d", n%1000)
				}
				policies = append(policies, p)
			}
			table, self := mesh(b, nil, policies...)
			facts := fromFrontend(b)
			policy.Evaluate(table, self, facts) // which prepares
			b.ReportAllocs()
			for b.Loop() {
				policy.Evaluate(table, self, facts)
			}
		})
	}
}
