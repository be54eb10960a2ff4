package dns

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/tulle-mesh/tulle/mesh/state"
)

func meshTable(t testing.TB) *state.Table {
	t.Helper()
	text, err := os.ReadFile("testdata/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	update, err := state.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	store := state.NewStore()
	if err := store.Apply(update); err != nil {
		t.Fatal(err)
	}
	return store.Load()
}

// fromNS1 is what a usual pod of namespace ns1 sees.
func fromNS1(t testing.TB) view {
	return view{
		names: names{search: clusterSearch("ns1", "cluster.local"), namespace: "ns1", domain: "cluster.local"},
		table: meshTable(t), preferred: "ns4", ipv6: true,
	}
}

// ask returns the records of the answer as text in alphabetical order, "none" if there are none, or "forward".
func ask(t testing.TB, v view, name string, kind uint16) string {
	t.Helper()
	wire, err := new(dns.Msg).SetQuestion(name, kind).Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, _ := parse(wire, false)
	if q == nil {
		t.Fatalf("%s is no query", name)
	}
	bareName, is4, ok := q.asks()
	if !ok {
		return "forward"
	}
	a, found := v.lookup(bareName, is4)
	if !found {
		return "forward"
	}
	return describe(t, q.fromMesh(a))
}

func describe(t testing.TB, r *dns.Msg) string {
	t.Helper()
	if !r.Response || !r.Authoritative || !r.RecursionAvailable || r.Rcode != dns.RcodeSuccess {
		t.Errorf("the reply's header is %v", r.MsgHdr.String())
	}
	var lines []string
	for _, record := range r.Answer {
		if h := record.Header(); h.Ttl != 30 || h.Class != dns.ClassINET {
			t.Errorf("header of a record is %v", h)
		}
		switch record := record.(type) {
		case *dns.CNAME:
			lines = append(lines, "CNAME "+record.Hdr.Name+" "+record.Target)
		case *dns.A:
			lines = append(lines, "A "+record.Hdr.Name+" "+record.A.String())
		case *dns.AAAA:
			lines = append(lines, "AAAA "+record.Hdr.Name+" "+record.AAAA.String())
		}
	}
	if len(lines) > 0 && strings.HasPrefix(lines[0], "CNAME") {
		slices.Sort(lines[1:])
	} else {
		slices.Sort(lines)
	}
	if lines == nil {
		return "none"
	}
	return strings.Join(lines, ", ")
}

func TestAnswersFromTheMesh(t *testing.T) {
	for _, test := range []struct{ what, name, kind, want string }{
		{"service by its full name", "details.ns1.svc.cluster.local.", "A", "A details.ns1.svc.cluster.local. 10.96.0.1"},
		{"name of another namespace", "reviews.ns2.svc.cluster.local.", "A", "A reviews.ns2.svc.cluster.local. 10.96.0.2"},
		{"upper case", "Details.NS1.svc.cluster.LOCAL.", "A", "A Details.NS1.svc.cluster.LOCAL. 10.96.0.1"},
		{"one label is a service of the own namespace", "details.", "A", "A details. 10.96.0.1"},
		{"one label is no service of another namespace", "reviews.", "A", "forward"},
		{"two labels are a service and its namespace", "reviews.ns2.", "A", "A reviews.ns2. 10.96.0.2"},
		{"three labels with svc", "reviews.ns2.svc.", "A", "A reviews.ns2.svc. 10.96.0.2"},
		{"three labels without svc", "reviews.ns2.cluster.", "A", "forward"},
		{"the pod of a set, two labels", "web-0.web.", "A", "A web-0.web. 10.0.2.1"},
		{"the pod of a set, four labels with svc", "web-0.web.ns1.svc.", "A", "A web-0.web.ns1.svc. 10.0.2.1"},
		{"a host of the outside", "www.example.com.", "A", "A www.example.com. 240.240.0.1"},
		{"a host of the outside, IPv6", "www.example.com.", "AAAA", "AAAA www.example.com. 2001:2::1"},
		{"a host of one label", "single.", "A", "A single. 240.240.0.5"},

		{"search domain of the namespace", "www.example.com.ns1.svc.cluster.local.", "A", "CNAME www.example.com.ns1.svc.cluster.local. www.example.com., A www.example.com. 240.240.0.1"},
		{"search domain of services", "www.example.com.svc.cluster.local.", "A", "CNAME www.example.com.svc.cluster.local. www.example.com., A www.example.com. 240.240.0.1"},
		{"search domain of the cluster", "www.example.com.cluster.local.", "A", "CNAME www.example.com.cluster.local. www.example.com., A www.example.com. 240.240.0.1"},
		{"search domain of another namespace", "www.example.com.ns2.svc.cluster.local.", "A", "forward"},
		{"search domain behind a full name", "reviews.ns2.svc.cluster.local.ns1.svc.cluster.local.", "A",
			"CNAME reviews.ns2.svc.cluster.local.ns1.svc.cluster.local. reviews.ns2.svc.cluster.local., A reviews.ns2.svc.cluster.local. 10.96.0.2"},
		{"search domain behind a short name of another namespace", "reviews.ns2.ns1.svc.cluster.local.", "A", "CNAME reviews.ns2.ns1.svc.cluster.local. reviews.ns2., A reviews.ns2. 10.96.0.2"},
		{"search domain behind a name with svc", "reviews.ns2.svc.ns1.svc.cluster.local.", "A", "CNAME reviews.ns2.svc.ns1.svc.cluster.local. reviews.ns2.svc., A reviews.ns2.svc. 10.96.0.2"},
		{"search domain that makes the full name", "details.ns1.svc.cluster.local.", "A", "A details.ns1.svc.cluster.local. 10.96.0.1"},
		{"search domain alone", "ns1.svc.cluster.local.", "A", "forward"},
		{"search domain with letters before", "examplens1.svc.cluster.local.", "A", "forward"},

		{"wildcard", "a.wild.example.com.", "A", "A a.wild.example.com. 240.240.0.2"},
		{"wildcard, two labels deep", "a.b.wild.example.com.", "A", "A a.b.wild.example.com. 240.240.0.2"},
		{"wildcard's own suffix", "wild.example.com.", "A", "forward"},
		{"the narrower wildcard wins", "a.narrow.wild.example.com.", "A", "A a.narrow.wild.example.com. 240.240.0.3"},
		{"the exact host wins over a wildcard", "exact.wild.example.com.", "A", "A exact.wild.example.com. 240.240.0.4"},
		{"wildcard with search domain", "a.wild.example.com.ns1.svc.cluster.local.", "A", "A a.wild.example.com.ns1.svc.cluster.local. 240.240.0.2"},
		{"wildcard without that family", "a.wild.example.com.", "AAAA", "none"},
		{"the wildcard itself", "*.wild.example.com.", "A", "A *.wild.example.com. 240.240.0.2"},

		{"headless service", "web.ns1.svc.cluster.local.", "A", "A web.ns1.svc.cluster.local. 10.0.2.1, A web.ns1.svc.cluster.local. 10.0.2.2"},
		{"headless service, IPv6", "web.ns1.svc.cluster.local.", "AAAA", "AAAA web.ns1.svc.cluster.local. fd00::2:1, AAAA web.ns1.svc.cluster.local. fd00::2:2"},
		{"headless service for IPv4 alone", "four.ns1.svc.cluster.local.", "AAAA", "none"},
		{"headless service for IPv6 alone", "six.ns1.svc.cluster.local.", "A", "none"},
		{"headless service for IPv6 alone, IPv6", "six.ns1.svc.cluster.local.", "AAAA", "AAAA six.ns1.svc.cluster.local. fd00::4:1"},
		{"headless service without pods", "empty.ns1.svc.cluster.local.", "A", "none"},
		{"headless service of pods in the host's network", "nodes.ns1.svc.cluster.local.", "A", "A nodes.ns1.svc.cluster.local. 192.168.0.1"},
		{"the pod of a set", "web-1.web.ns1.svc.cluster.local.", "A", "A web-1.web.ns1.svc.cluster.local. 10.0.2.2"},
		{"the pod of a set, IPv6", "web-1.web.ns1.svc.cluster.local.", "AAAA", "AAAA web-1.web.ns1.svc.cluster.local. fd00::2:2"},
		{"an unhealthy pod of a set", "web-2.web.ns1.svc.cluster.local.", "A", "forward"},
		{"a pod of a set on another network", "web-3.web.ns1.svc.cluster.local.", "A", "forward"},
		{"a pod of another namespace than its service", "stray-0.mixed.ns1.svc.cluster.local.", "A", "forward"},
		{"a pod of no set", "client.web.ns1.svc.cluster.local.", "A", "forward"},
		{"a pod of a service with an address", "web-0.details.ns1.svc.cluster.local.", "A", "forward"},

		{"dual stack, IPv4", "both.ns1.svc.cluster.local.", "A", "A both.ns1.svc.cluster.local. 10.96.0.3"},
		{"dual stack, IPv6", "both.ns1.svc.cluster.local.", "AAAA", "AAAA both.ns1.svc.cluster.local. fd96::3"},
		{"IPv4 service asked for IPv6", "details.ns1.svc.cluster.local.", "AAAA", "none"},
		{"families of the service, IPv4 alone", "only4.ns1.svc.cluster.local.", "AAAA", "none"},
		{"families of the service, IPv6 alone", "only6.ns1.svc.cluster.local.", "A", "none"},
		{"address on another network", "faraway.ns1.svc.cluster.local.", "A", "none"},
		{"addresses on several networks", "halfway.ns1.svc.cluster.local.", "A", "A halfway.ns1.svc.cluster.local. 10.96.0.8"},
		{"several addresses", "many.ns1.svc.cluster.local.", "A", "A many.ns1.svc.cluster.local. 10.96.1.1, A many.ns1.svc.cluster.local. 10.96.1.2, A many.ns1.svc.cluster.local. 10.96.1.3"},

		{"the own namespace wins over the canonical one", "own.example.com.", "A", "A own.example.com. 240.1.0.1"},
		{"the canonical one wins over others", "canonical.example.com.", "A", "A canonical.example.com. 240.2.0.2"},
		{"the preferred namespace wins over others", "preferred.example.com.", "A", "A preferred.example.com. 240.3.0.2"},
		{"the canonical one wins over the preferred namespace", "over.example.com.", "A", "A over.example.com. 240.4.0.1"},
		{"else the first namespace", "any.example.com.", "A", "A any.example.com. 240.5.0.1"},
		{"a hidden service of another namespace", "secret.ns2.svc.cluster.local.", "A", "forward"},
		{"a hidden canonical service", "hidden.example.com.", "A", "A hidden.example.com. 240.6.0.2"},

		{"unknown name", "unknown.example.com.", "A", "forward"},
		{"unknown service", "unknown.ns1.svc.cluster.local.", "A", "forward"},
		{"outside host without address", "unaddressed.example.com.", "A", "forward"},
		{"outside host with a range of addresses", "ranged.example.com.", "A", "forward"},
		{"escaped dot", `details\.ns1.svc.cluster.local.`, "A", "forward"},
		{"the root", ".", "A", "forward"},
		{"mail servers", "details.ns1.svc.cluster.local.", "MX", "forward"},
		{"ports of a service", "_http._tcp.details.ns1.svc.cluster.local.", "SRV", "forward"},
		{"names of an address", "1.0.96.10.in-addr.arpa.", "PTR", "forward"},
		{"anything", "details.ns1.svc.cluster.local.", "ANY", "forward"},
	} {
		t.Run(test.what, func(t *testing.T) {
			if got := ask(t, fromNS1(t), test.name, dns.StringToType[test.kind]); got != test.want {
				t.Errorf("%s %s is\n%s, want\n%s", test.kind, test.name, got, test.want)
			}
		})
	}
}

func TestAnswersDependOnTheClient(t *testing.T) {
	for _, test := range []struct {
		what   string
		change func(*view)
		name   string
		kind   uint16
		want   string
	}{
		{"hidden services are seen from their namespace", func(v *view) { v.namespace = "ns2" }, "secret.ns2.svc.cluster.local.", dns.TypeA, "A secret.ns2.svc.cluster.local. 10.96.0.9"},
		{"one label means the client's namespace", func(v *view) { v.namespace = "ns2" }, "reviews.", dns.TypeA, "A reviews. 10.96.0.2"},
		{"the network has its own addresses", func(v *view) { v.network = "far" }, "halfway.ns1.svc.cluster.local.", dns.TypeA, "A halfway.ns1.svc.cluster.local. 10.96.0.7"},
		{"the network has its own pods", func(v *view) { v.network = "far" }, "web.ns1.svc.cluster.local.", dns.TypeA, "A web.ns1.svc.cluster.local. 10.0.2.4"},
		{"no preferred namespace", func(v *view) { v.preferred = "" }, "preferred.example.com.", dns.TypeA, "A preferred.example.com. 240.3.0.1"},
		{"IPv6 is off", func(v *view) { v.ipv6 = false }, "both.ns1.svc.cluster.local.", dns.TypeAAAA, "none"},
		{"IPv6 is off, pods", func(v *view) { v.ipv6 = false }, "web.ns1.svc.cluster.local.", dns.TypeAAAA, "none"},
		{"another cluster domain", func(v *view) { v.domain = "example.org" }, "details.", dns.TypeA, "forward"},
		{"headless needs the cluster domain", func(v *view) { v.domain = "example.org" }, "web.ns1.svc.cluster.local.", dns.TypeA, "forward"},

		{"own search domain", own(1, "corp.example"), "www.example.com.corp.example.", dns.TypeA, "CNAME www.example.com.corp.example. www.example.com., A www.example.com. 240.240.0.1"},
		{"own search domain instead of Kubernetes'", own(1, "corp.example"), "www.example.com.ns1.svc.cluster.local.", dns.TypeA, "forward"},
		{"own search without the cluster leaves short names alone", own(5, "corp.example"), "reviews.ns2.", dns.TypeA, "forward"},
		{"own search completes short names", own(5, "ns2.svc.cluster.local"), "reviews.", dns.TypeA, "A reviews. 10.96.0.2"},
		{"names with enough dots are as they are", own(1, "svc.cluster.local"), "reviews.ns2.", dns.TypeA, "forward"},
		{"names with too few dots are completed", own(2, "svc.cluster.local"), "reviews.ns2.", dns.TypeA, "A reviews.ns2. 10.96.0.2"},
	} {
		t.Run(test.what, func(t *testing.T) {
			v := fromNS1(t)
			test.change(&v)
			if got := ask(t, v, test.name, test.kind); got != test.want {
				t.Errorf("%s is\n%s, want\n%s", test.name, got, test.want)
			}
		})
	}
}

// own makes the pod's resolv.conf known.
func own(ndots int, domains ...string) func(*view) {
	return func(v *view) { v.search = Search{Domains: domains, Ndots: ndots, Own: true} }
}

func TestAddressesComeInRandomOrder(t *testing.T) {
	v, firsts := fromNS1(t), map[string]bool{}
	for range 200 {
		q := newQuery(t, "many.ns1.svc.cluster.local.", dns.TypeA)
		a, _ := v.lookup("many.ns1.svc.cluster.local", true)
		firsts[q.fromMesh(a).Answer[0].String()] = true
	}
	if len(firsts) != 3 {
		t.Errorf("%d of 3 addresses came first", len(firsts))
	}
}

func newQuery(t testing.TB, name string, kind uint16) *query {
	t.Helper()
	wire, err := new(dns.Msg).SetQuestion(name, kind).Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, _ := parse(wire, true)
	return q
}

func BenchmarkLookup(b *testing.B) {
	v := fromNS1(b)
	for _, name := range []string{"details.ns1.svc.cluster.local", "www.example.com.ns1.svc.cluster.local", "unknown.example.org", "unknown.example.org.ns1.svc.cluster.local"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v.lookup(name, true)
			}
		})
	}
	b.Run("whole query", func(b *testing.B) {
		wire, _ := new(dns.Msg).SetQuestion("details.ns1.svc.cluster.local.", dns.TypeA).Pack()
		b.ReportAllocs()
		for b.Loop() {
			q, _ := parse(wire, true)
			name, is4, _ := q.asks()
			a, _ := v.lookup(name, is4)
			q.pack(q.fromMesh(a))
		}
	})
}
