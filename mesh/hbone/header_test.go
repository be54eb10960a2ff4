package hbone

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

func TestAuthority(t *testing.T) {
	for _, test := range []struct{ in, want, host string }{
		{"10.0.0.1:80", "10.0.0.1:80", "10.0.0.1"},
		{"[fd00::1]:443", "[fd00::1]:443", "fd00::1"},
		{"[FD00:0::1]:443", "[fd00::1]:443", "fd00::1"},
		{"[::ffff:10.0.0.1]:80", "10.0.0.1:80", "10.0.0.1"},
		{"cart.shop.svc.cluster.local:8080", "cart.shop.svc.cluster.local:8080", "cart.shop.svc.cluster.local"},
		{"Cart.Shop:8080", "cart.shop:8080", "cart.shop"},
		{"a_b-c.example.:65535", "a_b-c.example.:65535", "a_b-c.example."},
		{"1password.com:1", "1password.com:1", "1password.com"},
	} {
		a, err := ParseAuthority(test.in)
		if err != nil || a.String() != test.want || a.Host() != test.host {
			t.Errorf("ParseAuthority(%q) = %q, host %q, %v, want %q, host %q", test.in, a, a.Host(), err, test.want, test.host)
		}
		_, isAddr := a.Addr()
		if _, err := netip.ParseAddr(test.host); isAddr != (err == nil) {
			t.Errorf("%q: Addr() says address: %v", test.in, isAddr)
		}
	}
	for _, in := range []string{"", ":", ":80", "a", "a:", "a:0", "a:65536", "a:-1", "a:+1", "a:1x", "10.0.0.1", "10.0.0.1:0", "10.0.0.256:80",
		"1.2.3:80", "fd00::1:80", "[fd00::1]", "[fd00::1]:", "[fd00::1%eth0]:80", "[10.0.0.1]:80", "[a]:80", "a b:80", "a/b:80", "a@b:80",
		"a..b:80", ".a:80", "a\n:80", "ä:80", strings.Repeat("a", 64) + ":80", strings.Repeat("a.", 127) + "b:80", "a:80:80", "123:80"} {
		if a, err := ParseAuthority(in); err == nil {
			t.Errorf("ParseAuthority(%q) = %q, want an error", in, a)
		}
	}
	if a := AuthorityFromAddr(netip.MustParseAddrPort("[::ffff:10.0.0.1]:80")); a != AuthorityFromAddr(netip.MustParseAddrPort("10.0.0.1:80")) {
		t.Errorf("a mapped address gives %q", a)
	}
	if a := AuthorityFromAddr(netip.AddrPort{}); !a.isZero() || a.String() != "" || a.Host() != "" || a.Port() != 0 {
		t.Errorf("no address gives %q", a)
	}
}

func TestBaggage(t *testing.T) {
	full := Baggage{"c1", "shop", "job", "sync", "cart", "v2", "eu", "eu-1"}
	const header = "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.job.name=sync,service.name=cart,service.version=v2,cloud.region=eu,cloud.availability_zone=eu-1"
	if got := full.String(); got != header {
		t.Errorf("String() = %q, want %q", got, header)
	}
	for _, test := range []struct {
		in   string
		want Baggage
	}{
		{header, full},
		{"", Baggage{}},
		{" k8s.pod.name = p , service.name=s", Baggage{WorkloadType: "pod", WorkloadName: "p", Service: "s"}},
		{"k8s.deployment.name=d,k8s.cronjob.name=c", Baggage{WorkloadType: "cronjob", WorkloadName: "c"}},
		{"unknown=x,service.name,=,service.version=", Baggage{}},
		{"service.name=a=b", Baggage{Service: "a=b"}},
		{"service.name=a\nb,service.version=ü,cloud.region=" + strings.Repeat("x", 300), Baggage{}},
		{strings.Repeat("a=b,", 64) + "service.name=late", Baggage{}},
		{"service.name=a," + strings.Repeat("x", 5000) + ",cloud.region=r", Baggage{Service: "a"}},
		{strings.Repeat("x", 5000), Baggage{}},
	} {
		if got := parseBaggage(test.in); got != test.want {
			t.Errorf("parseBaggage(%.60q) = %+v, want %+v", test.in, got, test.want)
		}
	}
	if got := (Baggage{WorkloadName: "w", Service: "a,b", Region: "x y"}).String(); got != "" {
		t.Errorf("what a header can't carry gives %q", got)
	}
}

func TestForwarded(t *testing.T) {
	addr := netip.MustParseAddrPort("10.0.0.1:80")
	for _, test := range []struct {
		in   string
		want Forwarded
	}{
		{`for="10.0.0.1:80"`, Forwarded{For: addr}},
		{`for="10.0.0.1:80";host=cart.shop`, Forwarded{For: addr, Host: "cart.shop"}},
		{`for="[fd00::1]:80";host=a`, Forwarded{For: netip.MustParseAddrPort("[fd00::1]:80"), Host: "a"}},
		{`For=10.0.0.1:80; HOST="a;b,c"; by=x`, Forwarded{For: addr, Host: "a;b,c"}},
		{`for="[::ffff:10.0.0.1]:80"`, Forwarded{For: addr}},
		{`for=unknown;host=a, for="10.0.0.1:80"`, Forwarded{Host: "a"}},
		{"", Forwarded{}},
		{";;", Forwarded{}},
	} {
		if got, err := parseForwarded(test.in); err != nil || got != test.want {
			t.Errorf("parseForwarded(%q) = %+v, %v, want %+v", test.in, got, err, test.want)
		}
	}
	for _, in := range []string{`for="10.0.0.1`, "host=ü", "host=a\x00", "host=a\nb", strings.Repeat("a", 2000)} {
		if got, err := parseForwarded(in); err == nil {
			t.Errorf("parseForwarded(%.40q) = %+v, want an error", in, got)
		}
	}
	for want, f := range map[string]Forwarded{
		"":                                 {},
		`for="10.0.0.1:80"`:                {For: addr},
		`for="10.0.0.1:80";host=cart.shop`: {For: addr, Host: "cart.shop"},
		`host=cart.shop`:                   {Host: "cart.shop"},
	} {
		if got := f.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}

func TestRequestHeaders(t *testing.T) {
	request := Request{Authority: AuthorityFromAddr(netip.MustParseAddrPort("10.0.0.1:80"))}
	fields := request.fields()
	if len(fields) != 2 || fields[0].Name != ":method" || fields[1].Name != ":authority" {
		t.Errorf("the plainest request has the fields %v, want the two pseudo fields", fields)
	}
	if _, err := parseRequest([]hpack.HeaderField{{Name: ":method", Value: "GET"}}); err == nil {
		t.Error("a GET is taken for a CONNECT")
	}
}

func FuzzAuthority(f *testing.F) {
	f.Add("10.0.0.1:80")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAuthority(s)
		if err != nil {
			if !a.isZero() {
				t.Errorf("%q: %q beside an error", s, a)
			}
			return
		}
		again, err := ParseAuthority(a.String())
		if err != nil || again != a || a.Port() == 0 || a.isZero() {
			t.Errorf("%q: %q reads as %q, %v", s, a, again, err)
		}
	})
}

func FuzzBaggage(f *testing.F) {
	f.Add("service.name=a,k8s.pod.name=b")
	f.Fuzz(func(t *testing.T, s string) {
		b := parseBaggage(s)
		if again := parseBaggage(b.String()); again != b {
			t.Errorf("%q: %+v reads as %+v", s, b, again)
		}
		if len(b.String()) > maxBaggage || strings.ContainsAny(b.String(), "\r\n\x00") {
			t.Errorf("%q gives the header %q", s, b)
		}
	})
}

func FuzzForwarded(f *testing.F) {
	f.Add(`for="10.0.0.1:80";host=a`)
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseForwarded(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(v.Host, "\r\n\x00") || (v.For.IsValid() && v.For.Addr().Is4In6()) {
			t.Errorf("%q: %+v", s, v)
		}
	})
}
