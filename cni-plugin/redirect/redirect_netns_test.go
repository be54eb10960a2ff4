package redirect_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

func TestEveryStateIsReadBackAsItWasSet(t *testing.T) { eachEngine(t, everyStateIsReadBackAsItWasSet) }

func everyStateIsReadBackAsItWasSet(t *testing.T) {
	ns := netns.New(t, "tulle-redirect-test")
	removed, draining, capture := redirect.Desired{}, redirect.Desired{State: redirect.Draining}, redirect.Desired{State: redirect.Capture}
	dns, ingress, virtual, all := capture, capture, capture, capture
	dns.How.DNS, ingress.How.Ingress, virtual.How.Virtual = true, true, "tap0,tap1"
	all.How = redirect.How{DNS: true, Ingress: true, Virtual: "tap1"}
	for _, d := range []redirect.Desired{
		removed, capture, capture, draining, capture, dns, dns, capture, dns, draining, dns, ingress, ingress, dns, all, virtual, draining, all,
		removed, draining, removed, ingress, removed, virtual, removed,
	} {
		set(t, ns, d.State, d.How)
		got, err := under.Current(ns.Netns)
		if err != nil || got.State != d.State || got.How != d.How {
			text, _ := under.Listing(ns.Netns)
			t.Fatalf("redirection is %s (%v), want %s%s\n%s", got, err, d.State, d.How, text)
		}
	}
}

func wantState(t *testing.T, ns *netns.Namespace, want redirect.State) {
	t.Helper()
	got, err := under.Current(ns.Netns)
	if err != nil || got.State != want {
		text, _ := under.Listing(ns.Netns)
		t.Fatalf("redirection is %s (%v), want %s\n%s", got.State, err, want, text)
	}
}

func TestWhoAnswersInAnEnrolledPod(t *testing.T) { eachEngine(t, whoAnswersInAnEnrolledPod) }

func whoAnswersInAnEnrolledPod(t *testing.T) {
	pod, peer := newPair(t)
	set(t, pod, redirect.Capture)
	app(t, pod, "the pod", 9080)
	app(t, peer, "the peer", 9080)
	for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
		announcer(t, pod, port)
	}
	marked := socket.DialConfig{Mark: socket.Mark}
	from := func(addr string) socket.DialConfig { return socket.DialConfig{Source: netip.MustParseAddr(addr)} }
	cases := []struct {
		name   string
		caller *netns.Namespace
		to     string
		cfg    socket.DialConfig
		want   string
	}{
		{"outbound is captured", pod, "10.77.0.2:9080", socket.DialConfig{}, "proxy on 15001 for 10.77.0.2:9080"},
		{"outbound to nobody is captured", pod, "10.77.9.9:80", socket.DialConfig{}, "proxy on 15001 for 10.77.9.9:80"},
		{"outbound to a tunnel port is captured", pod, "10.77.0.2:15008", socket.DialConfig{}, "proxy on 15001 for 10.77.0.2:15008"},
		{"outbound v6 is captured", pod, "[fd77::2]:9080", socket.DialConfig{}, "proxy on 15001 for [fd77::2]:9080"},
		{"the proxy's own goes out", pod, "10.77.0.2:9080", marked, "the peer hears 10.77.0.1"},
		{"the proxy's own v6 goes out", pod, "[fd77::2]:9080", marked, "the peer hears fd77::1"},
		{"own address isn't captured", pod, "10.77.0.1:9080", socket.DialConfig{}, "the pod hears 10.77.0.1"},
		{"own v6 address isn't captured", pod, "[fd77::1]:9080", socket.DialConfig{}, "the pod hears fd77::1"},
		{"loopback isn't captured", pod, "127.0.0.1:9080", socket.DialConfig{}, "the pod hears 127.0.0.1"},
		{"other loopback isn't captured", pod, "127.0.0.2:9080", socket.DialConfig{}, "the pod hears 127.0.0.1"},
		{"v6 loopback isn't captured", pod, "[::1]:9080", socket.DialConfig{}, "the pod hears ::1"},
		{"inbound plain text is captured", peer, "10.77.0.1:9080", socket.DialConfig{}, "proxy on 15006 for 10.77.0.1:9080"},
		{"inbound plain text v6 is captured", peer, "[fd77::1]:9080", socket.DialConfig{}, "proxy on 15006 for [fd77::1]:9080"},
		{"inbound to a closed port is captured", peer, "10.77.0.1:1", socket.DialConfig{}, "proxy on 15006 for 10.77.0.1:1"},
		{"tunnels aren't captured", peer, "10.77.0.1:15008", socket.DialConfig{}, "proxy on 15008 for 10.77.0.1:15008"},
		{"v6 tunnels aren't captured", peer, "[fd77::1]:15008", socket.DialConfig{}, "proxy on 15008 for [fd77::1]:15008"},
		{"a caller's mark means nothing on the wire", peer, "10.77.0.1:9080", marked, "proxy on 15006 for 10.77.0.1:9080"},
		{"probes reach the app", peer, "10.77.0.1:9080", from(probe4), "the pod hears 169.254.7.127"},
		{"v6 probes reach the app", peer, "[fd77::1]:9080", from(probe6), "the pod hears fd16:9254:7127:1337:ffff:ffff:ffff:ffff"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := mustDial(t, c.caller, c.to, c.cfg)
			if l.banner != c.want {
				t.Errorf("dial %s: %q answered, want %q", c.to, l.banner, c.want)
			}
			l.alive(t, "then")
		})
	}
}

// The proxy dials the app in the name of a remote caller. The answers are addressed to that caller, but must come back to
// the proxy.
func TestAnswersToTheCallersAddressReturnToTheProxy(t *testing.T) {
	eachEngine(t, answersToTheCallersAddressReturnToTheProxy)
}

func answersToTheCallersAddressReturnToTheProxy(t *testing.T) {
	pod, _ := newPair(t)
	set(t, pod, redirect.Capture)
	app(t, pod, "the pod", 9080)
	announcer(t, pod, redirect.PortOutbound)
	for _, c := range []struct{ to, source string }{{hostPort(pod4, 9080), stranger4}, {hostPort(pod6, 9080), stranger6}} {
		l := mustDial(t, pod, c.to, socket.DialConfig{Mark: socket.Mark, Source: netip.MustParseAddr(c.source)})
		if want := "the pod hears " + c.source; l.banner != want {
			t.Errorf("%q answered, want %q", l.banner, want)
		}
		l.alive(t, "then")
		if _, err := pod.Dial(context.Background(), netip.MustParseAddrPort(strings.Replace(c.to, "9080", "9", 1)),
			socket.DialConfig{Mark: socket.Mark, Source: netip.MustParseAddr(c.source), Timeout: patience}); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("a closed port says %v, want connection refused at once", err)
		}
	}
}

func TestLiveConnectionsSurviveEnrolmentAndUnenrolment(t *testing.T) {
	eachEngine(t, liveConnectionsSurviveEnrolmentAndUnenrolment)
}

func liveConnectionsSurviveEnrolmentAndUnenrolment(t *testing.T) {
	for name, at := range map[string]struct{ pod, peer string }{"v4": {pod4, peer4}, "v6": {pod6, peer6}} {
		t.Run(name, func(t *testing.T) {
			pod, peer := newPair(t)
			app(t, pod, "the pod", 9080)
			app(t, peer, "the peer", 9080)
			relay(t, pod, redirect.PortOutbound)
			relay(t, pod, redirect.PortInbound)
			toPeer, toPod := hostPort(at.peer, 9080), hostPort(at.pod, 9080)
			both := func(want string) []*line {
				t.Helper()
				out, in := mustDial(t, pod, toPeer, socket.DialConfig{}), mustDial(t, peer, toPod, socket.DialConfig{})
				if got := strings.HasPrefix(out.banner, "relayed: "); got != (want == "captured") {
					t.Errorf("outbound is answered by %q, want it %s", out.banner, want)
				}
				if got := strings.HasPrefix(in.banner, "relayed: "); got != (want == "captured") {
					t.Errorf("inbound is answered by %q, want it %s", in.banner, want)
				}
				return []*line{out, in}
			}
			alive := func(lines []*line, when string) {
				t.Helper()
				for _, l := range lines {
					l.alive(t, when)
				}
			}
			before := both("direct")
			set(t, pod, redirect.Capture)
			alive(before, "after-enrolment")
			captured := both("captured")
			alive(before, "while-others-are-captured")
			set(t, pod, redirect.Draining)
			alive(captured, "while-draining")
			during := both("direct")
			alive(append(before, captured...), "while-draining-goes-on")
			own := 1 // the relay's to the app
			if under.rewrites() {
				own = 2 // and the inbound one to the relay, which looks like any other with ebpf
			}
			wantConnections(t, pod, 1+own)
			set(t, pod, redirect.Capture)
			alive(append(append(before, captured...), during...), "after-draining-was-called-off")
			again := both("captured")
			set(t, pod, redirect.Draining)
			alive(again, "while-draining-again")
			for _, l := range append(captured, again...) {
				l.Close()
			}
			wantConnections(t, pod, 0)
			set(t, pod, redirect.Removed)
			alive(append(before, during...), "after-removal")
			both("direct")
		})
	}
}

// wantConnections waits for the count: the kernel needs a moment to notice that both ends have closed.
func wantConnections(t *testing.T, ns *netns.Namespace, want int) {
	t.Helper()
	got, err := 0, error(nil)
	for range 10_000 {
		if got, err = redirect.Connections(ns.Netns); err != nil || got == want {
			break
		}
	}
	if err != nil || got != want {
		t.Errorf("%d connections pass the proxy (%v), want %d", got, err, want)
	}
}

func TestIdleTunnelsDontCountAsConnections(t *testing.T) {
	eachEngine(t, idleTunnelsDontCountAsConnections)
}

func idleTunnelsDontCountAsConnections(t *testing.T) {
	pod, peer := newPair(t)
	set(t, pod, redirect.Capture)
	app(t, pod, "the pod", 9080)
	announcer(t, pod, redirect.PortHBONE)
	mustDial(t, peer, hostPort(pod4, redirect.PortHBONE), socket.DialConfig{}).alive(t, "tunnel")
	wantConnections(t, pod, 0)
	stream := mustDial(t, pod, hostPort(pod6, 9080), socket.DialConfig{Mark: socket.Mark, Source: netip.MustParseAddr(stranger6)})
	wantConnections(t, pod, 1)
	stream.Close()
	wantConnections(t, pod, 0)
}

// scratch adds a rule of a stranger to our table, so that the next Set has to write everything anew.
func scratch(t testing.TB, ns *netns.Namespace) {
	t.Helper()
	err := ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "istio-ambient-mangle"}
		chain := &nftables.Chain{Table: table, Name: "istio-output"}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestApplyingAgainUnderLoadLosesAndLeaksNothing(t *testing.T) {
	useEngine(t, "nft")
	pod, peer := newPair(t)
	set(t, pod, redirect.Capture)
	app(t, peer, "the peer", 9080)
	app(t, pod, "the pod", 9080)
	announcer(t, pod, redirect.PortOutbound)
	announcer(t, pod, redirect.PortInbound)
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	var dials atomic.Int64
	client := func(ns *netns.Namespace, to string) {
		for ctx.Err() == nil {
			l, err := dial(ns, netip.MustParseAddrPort(to), socket.DialConfig{})
			if err != nil {
				t.Errorf("dial %s: %v", to, err)
				return
			}
			if !strings.HasPrefix(l.banner, "proxy on") {
				t.Errorf("%q answered: a connection has escaped", l.banner)
			}
			l.Close()
			dials.Add(1)
		}
	}
	for range 2 {
		clients.Go(func() { client(pod, hostPort(peer4, 9080)) })
		clients.Go(func() { client(peer, hostPort(pod6, 9080)) })
	}
	for range 60 {
		scratch(t, pod)
		wantState(t, pod, redirect.Damaged)
		set(t, pod, redirect.Capture)
		set(t, pod, redirect.Capture)
	}
	stop()
	clients.Wait()
	if dials.Load() < 100 {
		t.Errorf("only %d connections were tried", dials.Load())
	}
	t.Logf("%d connections during 60 rewrites", dials.Load())
}

// snapshot lists what redirection could leave behind: tables, policy rules, routes, and the sysctl.
func snapshot(t *testing.T, ns *netns.Namespace) string {
	t.Helper()
	var lines []string
	err := ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if err != nil {
			return err
		}
		for _, table := range tables {
			if table.Family == nftables.TableFamilyINet { // iptables never takes its own away
				lines = append(lines, fmt.Sprintf("table %d %s", table.Family, table.Name))
			}
		}
		lines = append(lines, iptablesRules(t)...)
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, rule := range rules {
				lines = append(lines, fmt.Sprintf("rule %d %s", family, rule))
			}
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, route := range routes {
				if route.Table == unix.RT_TABLE_LOCAL {
					continue // the kernel's own, and late with IPv6
				}
				lines = append(lines, fmt.Sprintf("route %d %s table %d type %d", family, route, route.Table, route.Type))
			}
		}
		value, err := os.ReadFile("/proc/sys/net/ipv4/tcp_tw_reuse")
		lines = append(lines, "tcp_tw_reuse "+strings.TrimSpace(string(value)))
		if value, err := os.ReadFile("/proc/sys/net/ipv4/tcp_migrate_req"); err == nil {
			lines = append(lines, "tcp_migrate_req "+strings.TrimSpace(string(value)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// iptablesRules lists rules and chains that somebody has made in the calling thread's namespace.
func iptablesRules(t *testing.T) (lines []string) {
	t.Helper()
	if _, err := exec.LookPath("iptables-nft-save"); err != nil {
		return nil // nobody can have
	}
	for _, program := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		out, err := exec.Command(program).Output()
		if err != nil {
			t.Errorf("%s: %v", program, err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":") && strings.Contains(line, " - ") {
				lines = append(lines, program+" "+strings.TrimSpace(line))
			}
		}
	}
	return lines
}

func TestRemovalLeavesTheNamespaceAsItWas(t *testing.T) {
	eachEngine(t, removalLeavesTheNamespaceAsItWas)
}

func removalLeavesTheNamespaceAsItWas(t *testing.T) {
	for reuse, migrate := range map[string]string{"0": "0", "1": "1", "2": "0"} {
		t.Run("tcp_tw_reuse="+reuse, func(t *testing.T) {
			pod, _ := newPair(t)
			pod.Sysctl("net.ipv4.tcp_tw_reuse", reuse)
			if _, err := os.Stat("/proc/sys/net/ipv4/tcp_migrate_req"); err == nil { // since Linux 5.14
				pod.Sysctl("net.ipv4.tcp_migrate_req", migrate)
			}
			before := snapshot(t, pod)
			for _, states := range [][]redirect.State{{redirect.Capture}, {redirect.Draining}, {redirect.Capture, redirect.Draining, redirect.Capture, redirect.Draining}} {
				for i, state := range states {
					set(t, pod, state, redirect.How{DNS: i == 0, Ingress: i == 0})
					if during := snapshot(t, pod); during == before || !strings.Contains(during, "tcp_tw_reuse 1") || strings.Contains(during, "tcp_migrate_req 0") {
						t.Fatalf("in state %s:\n%s", state, during)
					}
				}
				set(t, pod, redirect.Removed)
				if after := snapshot(t, pod); after != before {
					t.Fatalf("before:\n%s\nafter %v and removal:\n%s", before, states, after)
				}
			}
		})
	}
}

func TestLeftoversOfAnInterruptedRunAreMendedAndRemoved(t *testing.T) {
	useEngine(t, "nft")
	nft := func(change func(*nftables.Conn)) func() error {
		return func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			change(conn)
			return conn.Flush()
		}
	}
	inet := func(name string) *nftables.Table {
		return &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	}
	delRule := func(family int) func() error {
		return func() error {
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.Table = family, 32764, 100
			return netlink.RuleDel(rule)
		}
	}
	cases := map[string]func() error{
		"one table gone":       nft(func(c *nftables.Conn) { c.DelTable(inet("istio-ambient-nat")) }),
		"the other table gone": nft(func(c *nftables.Conn) { c.DelTable(inet("istio-ambient-mangle")) }),
		"all tables gone": nft(func(c *nftables.Conn) {
			c.DelTable(inet("istio-ambient-nat"))
			c.DelTable(inet("istio-ambient-mangle"))
		}),
		"all rules flushed": nft(func(c *nftables.Conn) { c.FlushTable(inet("istio-ambient-nat")) }),
		"a table of another version": nft(func(c *nftables.Conn) {
			c.AddTable(inet("istio-ambient-raw"))
			c.AddChain(&nftables.Chain{Table: inet("istio-ambient-nat"), Name: "output-of-another-version"})
		}),
		"a setting changed back": func() error {
			return os.WriteFile("/proc/sys/net/ipv4/tcp_migrate_req", []byte("0"), 0)
		},
		"policy rule gone":    delRule(netlink.FAMILY_V4),
		"v6 policy rule gone": delRule(netlink.FAMILY_V6),
		"routes gone": func() error {
			lo := 1
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: 100}, netlink.RT_FILTER_TABLE)
				if err != nil || len(routes) != 1 || routes[0].LinkIndex != lo {
					return fmt.Errorf("routes %v: %w", routes, err)
				}
				if err := netlink.RouteDel(&routes[0]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			pod, peer := newPair(t)
			app(t, peer, "the peer", 9080)
			announcer(t, pod, redirect.PortOutbound)
			announcer(t, pod, redirect.PortInbound)
			before := snapshot(t, pod)
			for _, repair := range []bool{true, false} {
				set(t, pod, redirect.Capture)
				if err := pod.Do(damage); err != nil {
					t.Fatal(err)
				}
				wantState(t, pod, redirect.Damaged)
				if repair {
					set(t, pod, redirect.Capture)
					wantAllCaptured(t, pod, peer)
				}
				set(t, pod, redirect.Removed)
				if after := snapshot(t, pod); after != before {
					t.Fatalf("before:\n%s\nafter removal:\n%s", before, after)
				}
			}
		})
	}
}

// wantAllCaptured wants the proxy to have what the pod opens and what is opened to it, in both families.
func wantAllCaptured(t *testing.T, pod, peer *netns.Namespace) {
	t.Helper()
	for _, path := range []struct {
		from     *netns.Namespace
		to, want string
	}{{pod, peer4, "proxy on 15001"}, {pod, peer6, "proxy on 15001"}, {peer, pod4, "proxy on 15006"}, {peer, pod6, "proxy on 15006"}} {
		if l := mustDial(t, path.from, hostPort(path.to, 9080), socket.DialConfig{}); !strings.HasPrefix(l.banner, path.want) {
			t.Errorf("%q answered to %s, want %s", l.banner, path.to, path.want)
		}
	}
}

func TestWithoutIPv6OnlyIPv4IsRedirected(t *testing.T) {
	eachEngine(t, withoutIPv6OnlyIPv4IsRedirected)
}

func withoutIPv6OnlyIPv4IsRedirected(t *testing.T) {
	pod, peer := newPair(t)
	pod.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	app(t, peer, "the peer", 9080)
	announcer(t, pod, redirect.PortOutbound)
	before := snapshot(t, pod)
	set(t, pod, redirect.Capture)
	text, err := under.Listing(pod.Netns)
	if err != nil || strings.Contains(text, "ip -6") || strings.Contains(text, "ip6") {
		t.Errorf("rules for IPv6 (%v):\n%s", err, text)
	}
	if l := mustDial(t, pod, hostPort(peer4, 9080), socket.DialConfig{}); !strings.HasPrefix(l.banner, "proxy on 15001") {
		t.Errorf("%q answered", l.banner)
	}
	pod.Sysctl("net.ipv6.conf.all.disable_ipv6", "0")
	wantState(t, pod, redirect.Damaged) // IPv6 came later: the next look adds it
	set(t, pod, redirect.Capture)
	wantState(t, pod, redirect.Capture)
	set(t, pod, redirect.Removed)
	pod.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	if after := snapshot(t, pod); after != before {
		t.Errorf("before:\n%s\nafter removal:\n%s", before, after)
	}
}

func TestTwoAgentsDontClash(t *testing.T) {
	useEngine(t, "nft")
	pod, _ := newPair(t)
	before := snapshot(t, pod)
	for _, state := range []redirect.State{redirect.Capture, redirect.Draining, redirect.Capture, redirect.Removed} {
		wish := desired(t, pod, state)
		var agents sync.WaitGroup
		for range 2 {
			agents.Go(func() {
				if err := under.Set(pod.Netns, wish); err != nil {
					t.Errorf("set %s beside another agent: %v", state, err)
				}
			})
		}
		agents.Wait()
		wantState(t, pod, state)
	}
	if after := snapshot(t, pod); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestLoopbackThatIsDownIsNamed(t *testing.T) { eachEngine(t, loopbackThatIsDownIsNamed) }

func loopbackThatIsDownIsNamed(t *testing.T) {
	ns := netns.New(t, "tulle-redirect-test")
	err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := under.Set(ns.Netns, desired(t, ns, redirect.Capture)); err == nil || !strings.Contains(err.Error(), "is lo up in the pod?") {
		t.Errorf("error is %v, want it to ask for lo", err)
	}
	set(t, ns, redirect.Removed)
}

func TestTheNodesOwnNamespaceIsRefused(t *testing.T) { eachEngine(t, theNodesOwnNamespaceIsRefused) }

func theNodesOwnNamespaceIsRefused(t *testing.T) {
	own, err := socket.OpenNetns("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for name, ns := range map[string]*socket.Netns{"by path": own, "by default": nil} {
		if err := under.Set(ns, redirect.Desired{State: redirect.Capture}); err == nil || !strings.Contains(err.Error(), "the node's own network namespace") {
			t.Errorf("%s: Set says %v", name, err)
		}
		if _, err := under.Current(ns); err == nil {
			t.Errorf("%s: Current took it", name)
		}
	}
}

func TestDamagedIsNoStateToWishFor(t *testing.T) {
	useEngine(t, "nft")
	if err := under.Set(nil, redirect.Desired{State: redirect.Damaged}); err == nil {
		t.Error("Set took Damaged")
	}
}
