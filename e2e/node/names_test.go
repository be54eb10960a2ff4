package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// nowhere is a name server's address at which nothing is: whoever answers is in the pod.
var nowhere = netip.MustParseAddrPort("198.51.100.53:53")

func TestMeshedPodsFindServicesByName(t *testing.T) {
	c := shared.use(t)
	for _, protocol := range []string{"udp", "tcp"} {
		for _, name := range []string{"far.app.svc.cluster.local.", "far.app.svc.", "far.app.", "far."} {
			want := fmt.Sprint(c.VIPs(far))
			if got := resolve(t, c, protocol, name); got != want {
				t.Errorf("%s by %s is %s, want %s", name, protocol, got, want)
			}
		}
		if got, want := resolve(t, c, protocol, "outpost.plain."), fmt.Sprint(c.VIPs(outpost)); got != want {
			t.Errorf("a service outside of the mesh is %s, want %s", got, want)
		}
	}
}

// resolve asks from the client's pod, and returns the addresses, IPv4 first.
func resolve(t *testing.T, c *demo.Cluster, protocol, name string) string {
	t.Helper()
	netns, err := c.Netns(client)
	if err != nil {
		t.Fatal(err)
	}
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if protocol == "tcp" {
			return netns.Dial(ctx, nowhere, socket.DialConfig{})
		}
		return netns.DialUDP(nowhere, 0)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	list, err := resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return err.Error()
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return fmt.Sprint(list)
}
