package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/policy"
)

// A second formulation of the semantics, straight over the messages, written for plainness. It shares nothing with the
// product: not the decoded form, not the principal's text, not the address arithmetic.

// attributeResult is what one kind of attribute says: has it any value, any positive one, a positive hit, a negative hit.
type attributeResult struct{ used, restricts, hit, barred bool }

func naiveAttribute[T any](positive, negative []T, is func(T) bool) attributeResult {
	return attributeResult{
		used:      len(positive)+len(negative) > 0,
		restricts: len(positive) > 0,
		hit:       slices.ContainsFunc(positive, is),
		barred:    slices.ContainsFunc(negative, is),
	}
}

func naiveText(text string) func(*security.StringMatch) bool {
	return func(m *security.StringMatch) bool {
		switch m.GetMatchType().(type) {
		case *security.StringMatch_Exact:
			return m.GetExact() == text
		case *security.StringMatch_Prefix:
			return len(text) >= len(m.GetPrefix()) && text[:len(m.GetPrefix())] == m.GetPrefix()
		case *security.StringMatch_Suffix:
			return len(text) >= len(m.GetSuffix()) && text[len(text)-len(m.GetSuffix()):] == m.GetSuffix()
		default:
			return len(text) > 0
		}
	}
}

func naiveAddress(addr netip.Addr) func(*security.Address) bool {
	ip := net.IP(addr.AsSlice())
	if four := ip.To4(); four != nil {
		ip = four
	}
	return func(m *security.Address) bool {
		if len(m.GetAddress()) != len(ip) {
			return false
		}
		mask := net.CIDRMask(int(m.GetLength()), 8*len(ip))
		return ip.Mask(mask).Equal(net.IP(m.GetAddress()).Mask(mask))
	}
}

func naiveMatch(m *security.Match, f policy.Facts) bool {
	ns, sa := f.Peer.Namespace(), f.Peer.ServiceAccount()
	principal := fmt.Sprintf("%s/ns/%s/sa/%s", f.Peer.TrustDomain(), ns, sa)
	known := !f.Peer.IsZero()
	used := false
	for _, a := range []attributeResult{
		naiveAttribute(m.GetNamespaces(), m.GetNotNamespaces(), naiveText(ns)),
		naiveAttribute(m.GetPrincipals(), m.GetNotPrincipals(), func(s *security.StringMatch) bool { return known && naiveText(principal)(s) }),
		naiveAttribute(m.GetServiceAccounts(), m.GetNotServiceAccounts(), func(s *security.ServiceAccountMatch) bool {
			return known && s.GetNamespace()+"/"+s.GetServiceAccount() == ns+"/"+sa
		}),
		naiveAttribute(m.GetSourceIps(), m.GetNotSourceIps(), naiveAddress(f.Source.Addr())),
		naiveAttribute(m.GetDestinationIps(), m.GetNotDestinationIps(), naiveAddress(f.Destination.Addr())),
		naiveAttribute(m.GetDestinationPorts(), m.GetNotDestinationPorts(), func(p uint32) bool { return p == uint32(f.Destination.Port()) }),
	} {
		if a.restricts && !a.hit || a.barred {
			return false
		}
		used = used || a.used
	}
	return used
}

func naivePolicy(p *security.Authorization, f policy.Facts) bool {
	return slices.ContainsFunc(p.GetGroups(), func(g *security.Group) bool {
		return !slices.ContainsFunc(g.GetRules(), func(r *security.Rules) bool {
			return len(r.GetMatches()) > 0 && !slices.ContainsFunc(r.GetMatches(), func(m *security.Match) bool { return naiveMatch(m, f) })
		})
	})
}

// naive returns whether the workload of mesh accepts the connection, and the policies that would have hit.
func naive(listed []string, policies []*security.Authorization, f policy.Facts) (allowed bool, dryRun []string) {
	known := map[string]bool{}
	allows, allowHit, denyHit := 0, false, false
	for _, p := range policies {
		name := p.GetNamespace() + "/" + p.GetName()
		known[name] = true
		switch {
		case p.GetScope() == security.Scope_GLOBAL:
		case p.GetScope() == security.Scope_NAMESPACE && p.GetNamespace() == "shop":
		case slices.Contains(listed, name):
		default:
			continue
		}
		hit := naivePolicy(p, f)
		switch {
		case p.GetDryRun() && hit:
			dryRun = append(dryRun, name)
		case p.GetDryRun():
		case p.GetAction() == security.Action_DENY:
			denyHit = denyHit || hit
		default:
			allows++
			allowHit = allowHit || hit
		}
	}
	for _, name := range listed {
		if !known[name] {
			denyHit = true
		}
	}
	return !denyHit && (allows == 0 || allowHit), dryRun
}

// dice makes random policies and connections out of few values, so that hits are about as likely as misses.
type dice struct{ *rand.Rand }

func (d dice) pick(values ...string) string { return values[d.IntN(len(values))] }

// list makes a list that is mostly empty.
func list[T any](d dice, chance int, make func() T) (values []T) {
	for d.IntN(chance) == 0 && len(values) < 3 {
		values = append(values, make())
	}
	return values
}

func (d dice) text(values ...string) *security.StringMatch {
	value := d.pick(values...)
	switch d.IntN(4) {
	case 0:
		return exact(value)[0]
	case 1:
		return prefix(value[:d.IntN(len(value)+1)])[0]
	case 2:
		return suffix(value[d.IntN(len(value)+1):])[0]
	default:
		return presence()[0]
	}
}

func (d dice) addr() netip.Addr {
	return netip.MustParseAddr(d.pick("10.0.0.1", "10.0.0.2", "10.1.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00::2", "fd01::1"))
}

func (d dice) network() *security.Address {
	addr := d.addr().Unmap()
	bits := d.IntN(addr.BitLen() + 1)
	return &security.Address{Address: addr.AsSlice(), Length: uint32(bits)}
}

func (d dice) account() *security.ServiceAccountMatch {
	return account(d.pick("web", "shop"), d.pick("a", "ab"))[0]
}

func (d dice) match() *security.Match {
	const chance = 6
	principals := []string{"cluster.local/ns/web/sa/a", "cluster.local/ns/shop/sa/ab", "other.example/ns/web/sa/a"}
	principal := func() *security.StringMatch { return d.text(principals...) }
	namespace := func() *security.StringMatch { return d.text("web", "shop", "") }
	port := func() uint32 { return uint32(80 + d.IntN(2)) }
	return &security.Match{
		Namespaces: list(d, chance, namespace), NotNamespaces: list(d, chance, namespace),
		Principals: list(d, chance, principal), NotPrincipals: list(d, chance, principal),
		SourceIps: list(d, chance, d.network), NotSourceIps: list(d, 2*chance, d.network),
		DestinationIps: list(d, chance, d.network), NotDestinationIps: list(d, 2*chance, d.network),
		DestinationPorts: list(d, chance, port), NotDestinationPorts: list(d, chance, port),
		ServiceAccounts: list(d, chance, d.account), NotServiceAccounts: list(d, chance, d.account),
	}
}

func (d dice) policy(name string) *security.Authorization {
	return &security.Authorization{
		Name: name, Namespace: d.pick("shop", "web", ""), Scope: security.Scope(d.IntN(3)), Action: security.Action(d.IntN(2)),
		DryRun: d.IntN(6) == 0,
		Groups: list(d, 2, func() *security.Group {
			return group(list(d, 2, func() *security.Rules { return rules(list(d, 2, d.match)...) })...)
		}),
	}
}

func (d dice) facts(t *testing.T) policy.Facts {
	f := policy.Facts{
		Source:      netip.AddrPortFrom(d.addr(), 43210),
		Destination: netip.AddrPortFrom(d.addr(), uint16(80+d.IntN(2))),
	}
	if d.IntN(4) > 0 {
		f.Peer = id(t, "spiffe://"+d.pick("cluster.local", "other.example")+"/ns/"+d.pick("web", "shop")+"/sa/"+d.pick("a", "ab"))
	}
	return f
}

func TestVerdictsAgreeWithTheNaiveFormulation(t *testing.T) {
	const rounds, connections = 3000, 20
	allowed := 0
	for seed := range uint64(rounds) {
		d := dice{rand.New(rand.NewPCG(seed, 4))}
		var policies []*security.Authorization
		var listed []string
		for n := range d.IntN(4) {
			p := d.policy(fmt.Sprint("p", n))
			policies = append(policies, p)
			if d.IntN(2) == 0 {
				listed = append(listed, p.GetNamespace()+"/"+p.GetName())
			}
		}
		if d.IntN(20) == 0 {
			listed = append(listed, "shop/unknown")
		}
		table, self := mesh(t, listed, policies...)
		for range connections {
			f := d.facts(t)
			want, dryRun := naive(listed, policies, f)
			got := policy.Evaluate(table, self, f)
			slices.Sort(got.DryRun)
			slices.Sort(dryRun)
			if got.Allowed != want || !slices.Equal(got.DryRun, dryRun) || got.Allowed != (got.Reason == "") {
				var texts []string
				for _, p := range policies {
					texts = append(texts, prototext.Format(p))
				}
				t.Fatalf("seed %d: got %+v, want allowed %v, dry run %v\nconnection %+v\nlisted %v\n%s",
					seed, got, want, dryRun, f, listed, strings.Join(texts, "\n"))
			}
			if want {
				allowed++
			}
		}
	}
	if share := float64(allowed) / (rounds * connections); share < 0.2 || share > 0.8 {
		t.Errorf("%.0f %% of the connections were allowed: the test says little", 100*share)
	}
}
