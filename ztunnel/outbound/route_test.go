package outbound

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestHostnameIsResolved(t *testing.T) {
	world := tableOf(t, world)
	for _, test := range []struct {
		name, to string
		addrs    []string
		want     string
	}{
		{"same family first", "10.1.0.4:443", []string{"2001:db8::1", "192.0.2.1"}, "plain 192.0.2.1:8443"},
		{"mapped is the same family", "10.1.0.4:443", []string{"::ffff:192.0.2.1"}, "plain 192.0.2.1:8443"},
		{"other family else", "10.1.0.4:443", []string{"2001:db8::1"}, "plain [2001:db8::1]:8443"},
		{"none", "10.1.0.4:443", nil, "no address"},
		{"with a tunnel", "10.1.0.17:443", []string{"192.0.2.1"}, "direct 192.0.2.1:15008 for 192.0.2.1:8443 as cluster.local/ns/demo/sa/named"},
		{"of a waypoint", "10.0.0.18:80", []string{"192.0.2.1"}, "waypoint 192.0.2.1:15018 for 10.0.0.18:80 as cluster.local/ns/demo/sa/external"},
	} {
		t.Run(test.name, func(t *testing.T) {
			call := callTo(world, "client", test.to)
			r, err := call.Decide()
			if err != nil || r.Addr.Addr().IsValid() || r.Host == "" {
				t.Fatalf("route %s, %v; want one without address", show(r), err)
			}
			var addrs []netip.Addr
			for _, addr := range test.addrs {
				addrs = append(addrs, netip.MustParseAddr(addr))
			}
			r, err = r.Resolved(addrs, nil, call.To)
			switch {
			case err != nil && !strings.Contains(err.Error(), test.want):
				t.Errorf("error %v, want %q", err, test.want)
			case err == nil && show(r) != test.want:
				t.Errorf("got %s, want %s", show(r), test.want)
			}
		})
	}
}

func TestHostnameThatCannotBeResolved(t *testing.T) {
	world := tableOf(t, world)
	call := callTo(world, "client", "10.1.0.4:443")
	r, err := call.Decide()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolved(nil, errors.New("server misbehaving"), call.To); err == nil || !strings.Contains(err.Error(), "server misbehaving") {
		t.Errorf("error %v, want the resolver's", err)
	}
}
