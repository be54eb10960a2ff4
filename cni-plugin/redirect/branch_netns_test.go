package redirect_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// behindABranch routes the node as AWS VPC CNI does for a pod with security groups: all that comes from the pod's link goes by table 101 to
// the cloud's network, which is somewhere else; so does what the node sends to the pod's address.
func behindABranch(t *testing.T, n aNode) {
	t.Helper()
	cloud := netns.New(t, "tulle-redirect-test")
	prefixes := func(v4, v6 string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(v4), netip.MustParsePrefix(v6)}
	}
	netns.Connect(n.Namespace, cloud, "branch", prefixes("10.90.0.1/24", "fd90::1/64"), prefixes("10.90.0.2/24", "fd90::2/64"))
	for ip, at := range map[string]struct{ pod, network, router string }{
		"ip -4": {enrolled4 + "/32", "10.78.0.0/24", "10.90.0.2"}, "ip -6": {enrolled6 + "/128", "fd78::/64", "fd90::2"},
	} {
		n.run(t, strings.NewReplacer("IP", ip, "POD", at.pod, "NETWORK", at.network, "ROUTER", at.router).Replace(`
			IP rule add pref 20 lookup local && IP rule del pref 0 lookup local
			IP rule add pref 10 iif branch lookup 101 && IP rule add pref 10 iif pod0 lookup 101
			IP route add default via ROUTER dev branch table 101 && IP route add POD dev pod0 table 101
			IP route del NETWORK dev pod0 && IP route add default via ROUTER dev branch`))
	}
}

func TestProbesPassWhereAPodHasABranchInterface(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		n := newNode(t)
		behindABranch(t, n)
		probes := n.probes(t)
		set(t, n.pod, redirect.Capture)
		announcer(t, n.pod, redirect.PortInbound)
		app(t, n.pod, "the pod", 9080)
		policies := func() string { return n.run(t, "ip -4 rule; ip -6 rule") }
		before := policies()
		probe := func(to string) string {
			conn, err := n.Dial(t.Context(), netip.MustParseAddrPort(hostPort(to, 9080)), socket.DialConfig{Timeout: 500 * time.Millisecond})
			if err != nil {
				return "no answer"
			}
			conn.Close()
			return heard(t, n, hostPort(to, 9080))
		}
		want := func(v4, v6 string) {
			t.Helper()
			if got4, got6 := probe(enrolled4), probe(enrolled6); got4 != v4 || got6 != v6 {
				t.Errorf("the pod hears %s and %s, want %s and %s\n%s", got4, got6, v4, v6, policies())
			}
		}
		exempt := func(uid string, addresses ...string) {
			t.Helper()
			if err := probes.Exempt(uid, addrs(addresses...)); err != nil {
				t.Fatal(err)
			}
		}
		exempt("uid", enrolled4, enrolled6)
		want("no answer", "no answer") // or the test shows nothing
		n.Sysctl("net.ipv4.tcp_early_demux", "0")
		if err := probes.Mend(); err != nil {
			t.Fatal(err)
		}
		want(probe4, probe6)
		made := policies()
		exempt("neighbour", neighbour4, neighbour6) // has no such interface
		if after := policies(); after != made {
			t.Errorf("rules for a pod without a branch interface:\n%s", after)
		}
		exempt("uid", enrolled4)
		want(probe4, "no answer")
		if err := probes.Release("uid"); err != nil {
			t.Fatal(err)
		}
		if after := policies(); after != before {
			t.Errorf("rules left:\n%s\nbefore:\n%s", after, before)
		}
		exempt("uid", enrolled4, enrolled6)
		if err := probes.Remove(); err != nil {
			t.Fatal(err)
		}
		if after := policies(); after != before {
			t.Errorf("rules left after the last agent:\n%s\nbefore:\n%s", after, before)
		}
	})
}
