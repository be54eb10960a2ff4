package redirect_test

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/iptables"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// aNode makes a node with two pods, each behind a link of its own, and a neighbour, which isn't enrolled.
type aNode struct {
	*netns.Namespace
	pod, neighbour *netns.Namespace
}

const (
	node4, node6           = "10.78.0.254", "fd78::254"
	enrolled4, enrolled6   = "10.78.0.1", "fd78::1"
	neighbour4, neighbour6 = "10.78.1.1", "fd78:1::1"
)

func newNode(t *testing.T) aNode {
	t.Helper()
	n := aNode{netns.New(t, "tulle-redirect-test"), netns.New(t, "tulle-redirect-test"), netns.New(t, "tulle-redirect-test")}
	prefixes := func(addrs ...string) (all []netip.Prefix) {
		for _, addr := range addrs {
			all = append(all, netip.MustParsePrefix(addr))
		}
		return all
	}
	netns.Connect(n.Namespace, n.pod, "pod0", prefixes(node4+"/24", node6+"/64"), prefixes(enrolled4+"/24", enrolled6+"/64"))
	netns.Connect(n.Namespace, n.neighbour, "pod1", prefixes("10.78.1.254/24", "fd78:1::254/64"), prefixes(neighbour4+"/24", neighbour6+"/64"))
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		n.Sysctl(name, "1")
	}
	n.pod.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr(node4))
	n.pod.Route(netip.MustParsePrefix("::/0"), netip.MustParseAddr(node6))
	n.neighbour.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.78.1.254"))
	n.neighbour.Route(netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd78:1::254"))
	return n
}

func (n aNode) probes(t *testing.T) *redirect.Probes {
	t.Helper()
	probes, err := redirect.NewProbes(n.Netns, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := probes.Open(); err != nil {
		t.Fatal(err)
	}
	return probes
}

func addrs(all ...string) (parsed []netip.Addr) {
	for _, addr := range all {
		parsed = append(parsed, netip.MustParseAddr(addr))
	}
	return parsed
}

// Each engine in the pod, and each way of making rules in the node.
func TestProbesOfTheNodePassAndNobodyElse(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		n := newNode(t)
		probes := n.probes(t)
		set(t, n.pod, redirect.Capture)
		announcer(t, n.pod, redirect.PortInbound)
		app(t, n.pod, "the pod", 9080)
		app(t, n.neighbour, "the neighbour", 9080)
		wantBanner := func(from *netns.Namespace, to, want string) {
			t.Helper()
			l := mustDial(t, from, to, socket.DialConfig{})
			if l.banner != want {
				t.Errorf("dial %s: %q answered, want %q", to, l.banner, want)
			}
			l.alive(t, "then")
		}
		captured := func() {
			t.Helper()
			wantBanner(n.Namespace, hostPort(enrolled4, 9080), "proxy on 15006 for 10.78.0.1:9080")
			wantBanner(n.Namespace, hostPort(enrolled6, 9080), "proxy on 15006 for [fd78::1]:9080")
		}
		captured()
		if err := probes.Exempt("uid", addrs(enrolled4, enrolled6)); err != nil {
			t.Fatal(err)
		}
		wantBanner(n.Namespace, hostPort(enrolled4, 9080), "the pod hears 169.254.7.127")
		wantBanner(n.Namespace, hostPort(enrolled6, 9080), "the pod hears fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
		for to, want := range map[string]string{enrolled4: "proxy on 15006 for 10.78.0.1:9080", enrolled6: "proxy on 15006 for [fd78::1]:9080"} {
			if got := n.bannerAs(t, 1000, hostPort(to, 9080)); got != want {
				t.Errorf("another user of the node dials %s: %q answered, want %q", to, got, want)
			}
		}
		wantBanner(n.neighbour, hostPort(enrolled4, 9080), "proxy on 15006 for 10.78.0.1:9080")
		wantBanner(n.neighbour, hostPort(enrolled6, 9080), "proxy on 15006 for [fd78::1]:9080")
		wantBanner(n.Namespace, hostPort(neighbour4, 9080), "the neighbour hears 10.78.1.254")
		wantBanner(n.pod, "127.0.0.1:9080", "the pod hears 127.0.0.1") // as with port-forward and exec
		wantBanner(n.pod, "[::1]:9080", "the pod hears ::1")
		if err := probes.Release("uid"); err != nil {
			t.Fatal(err)
		}
		captured()
	})
}

// bannerAs dials from the node as a process of another user would. A socket's user is its maker's for access to files, which each thread has.
func (n aNode) bannerAs(t *testing.T, user int, to string) (banner string) {
	t.Helper()
	err := n.Do(func() error {
		if err := unix.Setfsuid(user); err != nil {
			return err
		}
		defer unix.Setfsuid(0)
		conn, err := net.DialTimeout("tcp", to, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		banner, err = bufio.NewReader(conn).ReadString('\n')
		return err
	})
	if err != nil {
		t.Errorf("dial %s: %v", to, err)
	}
	return strings.TrimSpace(banner)
}

// eachWay runs a test with each way of making rules in a node.
func eachWay(t *testing.T, test func(t *testing.T, n aNode, probes *redirect.Probes, list func() string)) {
	iptables.Need(t)
	for name, way := range map[string]redirect.Engine{"nft": redirect.NFT, "iptables-nft": redirect.IPTablesNFT, "iptables-legacy": redirect.IPTablesLegacy} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			probes, err := redirect.NewProbesBy(way, n.Netns)
			if err != nil {
				t.Fatal(err)
			}
			if err := probes.Open(); err != nil {
				t.Fatal(err)
			}
			test(t, n, probes, func() string { return n.rules(t) })
		})
	}
}

// rules are all that programs show of the node's namespace that is for probes, by whatever means it was made.
func (n aNode) rules(t *testing.T) string {
	t.Helper()
	text := n.run(t, "nft list table inet istio-ambient-nat 2>/dev/null || true")
	for _, variant := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		text += n.run(t, variant+"-save -t nat 2>/dev/null | grep ISTIO_POSTRT || true")
	}
	return text
}

// run runs a line of shell in the node's namespace.
func (n aNode) run(t *testing.T, line string) string {
	t.Helper()
	out, err := []byte(nil), error(nil)
	if err := n.Do(func() error {
		out, err = exec.Command("sh", "-c", line).CombinedOutput()
		return err
	}); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func heard(t *testing.T, n aNode, to string) string {
	t.Helper()
	l := mustDial(t, n.Namespace, to, socket.DialConfig{})
	return strings.TrimPrefix(l.banner, "the pod hears ")
}

func TestExemptionIsExact(t *testing.T) {
	eachWay(t, func(t *testing.T, n aNode, probes *redirect.Probes, list func() string) {
		app(t, n.pod, "the pod", 9080)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		want := func(v4, v6 string) {
			t.Helper()
			if got := heard(t, n, hostPort(enrolled4, 9080)); got != v4 {
				t.Errorf("the pod hears %s, want %s\n%s", got, v4, list())
			}
			if got := heard(t, n, hostPort(enrolled6, 9080)); got != v6 {
				t.Errorf("the pod hears %s, want %s\n%s", got, v6, list())
			}
		}
		nothing := func() {
			t.Helper()
			if got := list(); got != "" {
				t.Errorf("left in the node:\n%s", got)
			}
		}
		nothing()
		must(probes.Exempt("a", nil)) // its addresses aren't known yet
		nothing()
		must(probes.Exempt("a", addrs(enrolled4)))
		want(probe4, node6)
		must(probes.Exempt("a", addrs(enrolled4, enrolled6)))
		want(probe4, probe6)
		must(probes.Exempt("a", addrs(enrolled6)))
		want(node4, probe6)
		must(probes.Exempt("b", addrs(enrolled4, enrolled6))) // another pod has got its address
		must(probes.Release("a"))
		want(probe4, probe6)
		must(probes.Release("nobody"))
		want(probe4, probe6)
		n.run(t, "nft flush ruleset; for p in iptables ip6tables; do $p-legacy -t nat -F; $p-legacy -t nat -X; done")
		want(node4, node6)
		must(probes.Mend())
		want(probe4, probe6)
		must(probes.Release("b"))
		want(node4, node6)
		nothing()
		must(probes.Exempt("a", addrs(enrolled4)))
		must(probes.Remove())
		nothing()
	})
}

// Pods come and go at the same time, as when a node starts.
func TestExemptionIsExactAfterManyPodsAtOnce(t *testing.T) {
	n := newNode(t)
	probes := n.probes(t)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 79, byte(i >> 8), byte(i)}) }
	var pods sync.WaitGroup
	var want []netip.Addr
	for i := range 40 {
		stays := i%2 == 0
		if stays {
			want = append(want, addr(i))
		}
		pods.Go(func() {
			err := probes.Exempt(fmt.Sprint(i), []netip.Addr{addr(i)})
			if passing, lookErr := probes.Passing(); err != nil || lookErr != nil || !slices.Contains(passing, addr(i)) {
				t.Errorf("%s doesn't pass when it must: %v %v (%v)", addr(i), err, lookErr, passing)
			}
			if !stays {
				if err := probes.Release(fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pods.Wait()
	if passing, err := probes.Passing(); err != nil || !slices.Equal(passing, want) {
		t.Errorf("these pass: %v (%v), want %v", passing, err, want)
	}
}

// The rules outlive an agent; the next one changes nothing before it knows all pods, and then only what isn't true any more.
func TestTheNextAgentTakesTheExemptionOver(t *testing.T) {
	eachWay(t, func(t *testing.T, n aNode, probes *redirect.Probes, list func() string) {
		if err := probes.Exempt("a", addrs(enrolled4, "10.78.0.7")); err != nil {
			t.Fatal(err)
		}
		before := list()
		next := n.probesUnopened(t)
		if err := next.Exempt("a", nil); err != nil { // known by its network namespace, but not yet by its address
			t.Fatal(err)
		}
		if got := list(); got != before {
			t.Errorf("changed before all is known:\n%s\nbefore:\n%s", got, before)
		}
		app(t, n.pod, "the pod", 9080)
		if err := next.Open(); err != nil {
			t.Fatal(err)
		}
		if got := heard(t, n, hostPort(enrolled4, 9080)); got != probe4 {
			t.Errorf("the pod hears %s: its address went before it was known\n%s", got, list())
		}
		if err := next.Exempt("a", addrs(enrolled4)); err != nil {
			t.Fatal(err)
		}
		if got := list(); !strings.Contains(got, enrolled4) || strings.Contains(got, "10.78.0.7") || strings.Contains(got, "ISTIO_POSTRT") {
			t.Errorf("want one address, by nft:\n%s", got)
		}
	})
}

func (n aNode) probesUnopened(t *testing.T) *redirect.Probes {
	t.Helper()
	probes, err := redirect.NewProbes(n.Netns, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return probes
}

// What Istio's agent has in a node is in the way of nobody any more.
func TestIstiosExemptionIsReplaced(t *testing.T) {
	iptables.Need(t)
	for name, made := range map[string]string{
		"nft": `nft -f - <<.
table inet istio-ambient-nat {
	set istio-inpod-probes-v4 { type ipv4_addr; elements = { 10.78.0.1, 10.78.0.9 } }
	chain istio-postrouting {
		type nat hook postrouting priority srcnat
		meta skuid 0 ip daddr @istio-inpod-probes-v4 counter snat ip to 169.254.7.127
	}
}
.`,
		"iptables-nft":    chainsOfIstio("iptables-nft"),
		"iptables-legacy": chainsOfIstio("iptables-legacy"),
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.run(t, made)
			if got := n.rules(t); !strings.Contains(got, "169.254.7.127") {
				t.Fatalf("made nothing:\n%s", got)
			}
			sets := func() (count int) {
				for _, name := range []string{"istio-inpod-probes-v4", "istio-inpod-probes-v6"} {
					if err := n.Do(func() error { _, err := netlink.IpsetList(name); return err }); err == nil {
						count++
					}
				}
				return count
			}
			for name, family := range map[string]uint8{"istio-inpod-probes-v4": unix.AF_INET, "istio-inpod-probes-v6": unix.AF_INET6} {
				if err := n.Do(func() error { return netlink.IpsetCreate(name, "hash:ip", netlink.IpsetCreateOptions{Family: family}) }); err != nil {
					t.Fatal(err)
				}
			}
			if sets() != 2 {
				t.Fatal("made no sets")
			}
			probes := n.probes(t)
			if got := n.rules(t); got != "" {
				t.Errorf("left of Istio's:\n%s", got)
			}
			if got := sets(); got != 0 {
				t.Errorf("%d of Istio's sets are left", got)
			}
			if err := probes.Exempt("a", addrs(enrolled4)); err != nil {
				t.Fatal(err)
			}
			if got := n.rules(t); strings.Contains(got, "ISTIO_POSTRT") || strings.Contains(got, "10.78.0.9") {
				t.Errorf("left of Istio's:\n%s", got)
			}
		})
	}
}

func chainsOfIstio(program string) string {
	return strings.ReplaceAll(`X -t nat -N ISTIO_POSTRT && X -t nat -I POSTROUTING 1 -j ISTIO_POSTRT &&
X -t nat -A ISTIO_POSTRT -m owner --socket-exists -p tcp -d 10.78.0.9 -j SNAT --to-source 169.254.7.127`, "X", program)
}
