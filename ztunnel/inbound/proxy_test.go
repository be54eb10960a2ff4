package inbound

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

func TestProxyHeader(t *testing.T) {
	id, err := identity.Parse("spiffe://td/ns/a/sa/b")
	if err != nil {
		t.Fatal(err)
	}
	const signature = "\x0d\x0a\x0d\x0a\x00\x0d\x0aQUIT\x0a\x21"
	for _, test := range []struct {
		name, client, destination string
		peer                      identity.Workload
		want                      string
	}{
		{"IPv4 without identity", "10.0.0.1:258", "10.0.0.2:80", identity.Workload{},
			signature + "\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x01\x02\x00\x50"},
		{"IPv4 with identity", "10.0.0.1:258", "10.0.0.2:80", id,
			signature + "\x11\x00\x24\x0a\x00\x00\x01\x0a\x00\x00\x02\x01\x02\x00\x50\xd0\x00\x15spiffe://td/ns/a/sa/b"},
		{"IPv6", "[fd00::1]:1", "[fd00::2]:2", identity.Workload{},
			signature + "\x21\x00\x24\xfd\x00" + zeros(13) + "\x01\xfd\x00" + zeros(13) + "\x02\x00\x01\x00\x02"},
		{"mixed families", "[fd00::1]:1", "10.0.0.2:2", identity.Workload{},
			signature + "\x21\x00\x24\xfd\x00" + zeros(13) + "\x01" + zeros(10) + "\xff\xff\x0a\x00\x00\x02\x00\x01\x00\x02"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := proxyHeader(netip.MustParseAddrPort(test.client), netip.MustParseAddrPort(test.destination), test.peer)
			if !bytes.Equal(got, []byte(test.want)) {
				t.Errorf("got  %x\nwant %x", got, test.want)
			}
		})
	}
}

func zeros(n int) string { return string(make([]byte, n)) }
