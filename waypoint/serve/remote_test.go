package serve

import (
	"net/netip"
	"testing"
)

func TestTheClientOfTrustedProxies(t *testing.T) {
	dialled := netip.MustParseAddr("10.0.0.1")
	for _, test := range []struct {
		list    string
		proxies int
		want    string
	}{
		{"192.0.2.1", 1, "192.0.2.1"},
		{"203.0.113.9, 192.0.2.1", 1, "192.0.2.1"}, // the first one may be made up
		{"203.0.113.9,192.0.2.1", 2, "203.0.113.9"},
		{"a,203.0.113.9, 192.0.2.1", 2, "203.0.113.9"},
		{"192.0.2.1", 2, "10.0.0.1"},
		{"", 1, "10.0.0.1"},
		{",", 1, "10.0.0.1"},
		{"nobody", 1, "10.0.0.1"},
		{"192.0.2.1:80", 1, "10.0.0.1"},
		{"fe80::1%eth0", 1, "10.0.0.1"},
		{"2001:db8::1", 1, "2001:db8::1"},
		{"::ffff:192.0.2.1", 1, "192.0.2.1"},
	} {
		if got := clientOf(test.list, test.proxies, dialled); got.String() != test.want {
			t.Errorf("by %q and %d proxies: %s, want %s", test.list, test.proxies, got, test.want)
		}
	}
}
