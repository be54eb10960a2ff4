package redirect_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/iptables"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

func wantEngine(t *testing.T, ns *netns.Namespace, want redirect.Engine) {
	t.Helper()
	got, err := under.Current(ns.Netns)
	if err != nil || got.Engine != want || got.State != redirect.Capture {
		text, _ := under.Listing(ns.Netns)
		t.Fatalf("it's %s by %s (%v), want capture by %s:\n%s", got.State, got.Engine, err, want, text)
	}
}

// moveTo captures a pod with a proxy that hands its listeners over, which gets ebpf, or with a foreign one, which gets nft.
func moveTo(t *testing.T, ns *netns.Namespace, engine redirect.Engine) {
	t.Helper()
	d := desired(t, ns, redirect.Capture)
	if engine == redirect.NFT {
		d.Listeners = nil
	}
	if err := under.Set(ns.Netns, d); err != nil {
		t.Fatal(err)
	}
	wantEngine(t, ns, engine)
}

// A pod changes its engine, and back, whenever its proxy becomes another: connections that were captured by one live on, and every
// new one is captured.
func TestPodsChangeTheirEngineUnderLoad(t *testing.T) {
	useEngine(t, redirect.Auto)
	pod, peer := newPair(t)
	before := snapshot(t, pod)
	app(t, peer, "the peer", 9080)
	app(t, pod, "the pod", 9080)
	relay(t, pod, redirect.PortOutbound)
	relay(t, pod, redirect.PortInbound)
	moveTo(t, pod, redirect.EBPF)
	load := startLoad(t, map[*netns.Namespace]string{pod: hostPort(peer4, 9080), peer: hostPort(pod6, 9080)})
	var lines []*line
	for i := range 20 {
		moveTo(t, pod, []redirect.Engine{redirect.NFT, redirect.EBPF}[i%2])
		for _, l := range lines {
			l.alive(t, "after-the-move")
		}
		lines = append(lines, mustDial(t, pod, hostPort(peer6, 9080), socket.DialConfig{}), mustDial(t, peer, hostPort(pod4, 9080), socket.DialConfig{}))
	}
	load.stop(t)
	for _, l := range lines {
		l.Close()
	}
	wantConnections(t, pod, 0)
	for _, engine := range []redirect.Engine{redirect.NFT, redirect.EBPF} {
		moveTo(t, pod, engine)
		moveTo(t, pod, engine) // now nobody needs the other any more
		if text, err := under.Listing(pod.Netns); err != nil || strings.Contains(text, "draining") {
			t.Errorf("the other engine is still there (%v):\n%s", err, text)
		}
	}
	set(t, pod, redirect.Removed)
	if after := snapshot(t, pod); after != before {
		t.Errorf("before:\n%s\nafter removal:\n%s", before, after)
	}
}

// Another agent may have to rewrite addresses by other means, as after an update of its image: rules change hands in one step.
func TestRulesChangeHandsUnderLoad(t *testing.T) {
	iptables.Need(t)
	bed := useEngine(t, string(redirect.NFT))
	pod, peer := newPair(t)
	before := snapshot(t, pod)
	app(t, peer, "the peer", 9080)
	app(t, pod, "the pod", 9080)
	relay(t, pod, redirect.PortOutbound)
	relay(t, pod, redirect.PortInbound)
	set(t, pod, redirect.Capture)
	load := startLoad(t, map[*netns.Namespace]string{pod: hostPort(peer4, 9080), peer: hostPort(pod6, 9080)})
	var lines []*line
	for i := range 12 {
		engine := []redirect.Engine{redirect.IPTablesNFT, redirect.IPTablesLegacy, redirect.NFT}[i%3]
		engines, err := redirect.New(redirect.Config{Engine: string(engine), Pins: bed.pins, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		bed.Engines = engines
		set(t, pod, redirect.Capture)
		wantEngine(t, pod, engine)
		if text, err := under.Listing(pod.Netns); err != nil || strings.Count(text, string(engine)+": capture\n") != 1 || strings.Contains(text, "damaged") {
			t.Errorf("rules of more than %s (%v):\n%s", engine, err, text)
		}
		for _, l := range lines {
			l.alive(t, "after-the-rules-changed-hands")
		}
		lines = append(lines, mustDial(t, pod, hostPort(peer6, 9080), socket.DialConfig{}), mustDial(t, peer, hostPort(pod4, 9080), socket.DialConfig{}))
	}
	load.stop(t)
	set(t, pod, redirect.Removed)
	if after := snapshot(t, pod); after != before {
		t.Errorf("before:\n%s\nafter removal:\n%s", before, after)
	}
}

// load is a number of clients that connect again and again.
type load struct {
	clients sync.WaitGroup
	end     context.CancelFunc
	dials   atomic.Int64
}

func startLoad(t *testing.T, targets map[*netns.Namespace]string) *load {
	ctx, end := context.WithCancel(context.Background())
	l := &load{end: end}
	for ns, to := range targets {
		for range 2 {
			l.clients.Go(func() {
				for ctx.Err() == nil {
					c, err := dial(ns, netip.MustParseAddrPort(to), socket.DialConfig{})
					if err != nil {
						t.Errorf("connection %d, to %s: %v", l.dials.Load(), to, err)
						return
					}
					if !strings.HasPrefix(c.banner, "relayed: ") {
						t.Errorf("%q answered: a connection has escaped", c.banner)
					}
					c.Close()
					l.dials.Add(1)
				}
			})
		}
	}
	return l
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	l.end()
	l.clients.Wait()
	if l.dials.Load() < 100 {
		t.Errorf("only %d connections were tried", l.dials.Load())
	}
	t.Logf("%d connections", l.dials.Load())
}

// Another generation of the proxy takes over by new listeners on the same ports: from one moment to the next all new connections are
// its own, although the older one's listeners are open.
func TestNewListenersGetEveryNewConnectionAtOnce(t *testing.T) {
	useEngine(t, "ebpf")
	pod, peer := newPair(t)
	app(t, pod, "the pod", 9080)
	set(t, pod, redirect.Capture)
	given := func() (socket.Given, *[3]atomic.Int64) {
		all, arrived := socket.Given{}, &[3]atomic.Int64{}
		for i, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
			listener, err := pod.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port), Mark: socket.Mark, Transparent: true, ReusePort: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { listener.Close() })
			raw, _ := listener.SyscallConn()
			if err := raw.Control(func(fd uintptr) { err = all.Share(int(fd), false) }); err != nil {
				t.Fatal(err)
			}
			go func() {
				for {
					conn, err := listener.AcceptTCP()
					if err != nil {
						return
					}
					arrived[i].Add(1)
					conn.Close()
				}
			}()
		}
		t.Cleanup(all.Close)
		return all, arrived
	}
	for _, spare := range under.spare { // they don't share their ports
		spare.Close()
	}
	under.given[pod].Close()
	older, atOlder := given()
	if err := under.Set(pod.Netns, redirect.Desired{State: redirect.Capture, Listeners: older}); err != nil {
		t.Fatal(err)
	}
	newer, atNewer := given()
	const calls = 30
	call := func() {
		for range calls {
			for _, path := range []struct {
				from *netns.Namespace
				to   string
			}{{pod, hostPort(peer4, 80)}, {peer, hostPort(pod6, 80)}, {peer, hostPort(pod4, redirect.PortHBONE)}} {
				conn, err := path.from.Dial(t.Context(), netip.MustParseAddrPort(path.to), socket.DialConfig{Timeout: patience})
				if err != nil {
					t.Fatal(err)
				}
				_, _ = conn.Read(make([]byte, 1)) // until it is accepted, and closed
				conn.Close()
			}
		}
	}
	call()
	if err := under.Listen(pod.ID(), newer); err != nil {
		t.Fatal(err)
	}
	call()
	for i := range atOlder {
		if older, newer := atOlder[i].Load(), atNewer[i].Load(); older != calls || newer != calls {
			t.Errorf("slot %d: %d connections came to the older proxy and %d to the newer, want %d each", i, older, newer, calls)
		}
	}
}

// A node that was rebooted, or whose agent was away while pods ended, has pins that nobody looks after.
func TestStalePinsAreSwept(t *testing.T) {
	useEngine(t, "ebpf")
	dir := under.pins
	agent := func() *redirect.Engines {
		engines, err := redirect.New(redirect.Config{Engine: "ebpf", Pins: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return engines
	}
	under.Engines = agent()
	alive, _ := newPair(t)
	set(t, alive, redirect.Capture)
	t.Run("a pod that ends", func(t *testing.T) {
		ended, _ := newPair(t)
		set(t, ended, redirect.Capture)
		for _, listener := range under.spare { // a socket keeps its namespace alive
			listener.Close()
		}
		under.given[ended].Close()
	})
	folders := func() int {
		all, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
		return len(all)
	}
	for range 5000 { // the kernel takes namespaces apart in the background
		if agent(); folders() == 1 {
			break
		}
	}
	if got := folders(); got != 1 {
		t.Errorf("%d folders of pins, want the living pod's alone", got)
	}
	under.Engines = agent()
	wantEngine(t, alive, redirect.EBPF)
}

// A pod's link-local address comes at any moment after its link is up.
func TestAnAddressThatComesMeanwhileIsCapturedToo(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, _ := newPair(t)
		seen, err := under.Look(pod.Netns)
		if err != nil {
			t.Fatal(err)
		}
		defer seen.Close()
		late := netip.MustParsePrefix("fe80::1234/64")
		err = pod.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(link, &netlink.Addr{IPNet: netlink.NewIPNet(late.Addr().AsSlice())})
		})
		if err != nil {
			t.Fatal(err)
		}
		if now, err := seen.Set(desired(t, pod, redirect.Capture)); err != nil || now.State != redirect.Capture {
			t.Errorf("%v %v", now, err)
		}
	})
}

// Jobs end all the time, agents don't.
func TestPinsOfPodsThatEndAreSwept(t *testing.T) {
	useEngine(t, "ebpf")
	alive, _ := newPair(t)
	set(t, alive, redirect.Capture)
	t.Run("a pod that ends", func(t *testing.T) {
		ended, _ := newPair(t)
		set(t, ended, redirect.Capture)
		for _, listener := range under.spare { // a socket keeps its namespace alive
			listener.Close()
		}
		under.given[ended].Close()
	})
	made := filepath.Join(under.pins, "tulle-v1", "1") // the folder of a pod that is just being made
	if err := os.Mkdir(made, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(made)
	folders := func() int {
		all, _ := filepath.Glob(filepath.Join(under.pins, "*", "*"))
		return len(all)
	}
	if got := folders(); got != 3 {
		t.Fatalf("%d folders of pins, want those of two pods, and the one that is made", got)
	}
	for range 5000 { // the kernel takes namespaces apart in the background
		if err := under.Engines.Sweep(); err != nil {
			t.Fatal(err)
		}
		if folders() == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := os.Stat(made); err != nil || folders() != 2 {
		t.Errorf("%d folders of pins, want the living pod's and the one that is made (%v)", folders(), err)
	}
	wantEngine(t, alive, redirect.EBPF)
}

// Whoever breaks a part of what captures is found out at the next look, and it is mended.
func TestDamageToEbpfIsFoundAndMended(t *testing.T) {
	damages := map[string]func(t *testing.T, ns *netns.Namespace, dir string){
		"a link's pin gone":    func(t *testing.T, _ *netns.Namespace, dir string) { remove(t, filepath.Join(dir, "lookup")) },
		"a map's pin gone":     func(t *testing.T, _ *netns.Namespace, dir string) { remove(t, filepath.Join(dir, "own")) },
		"another interface":    func(t *testing.T, ns *netns.Namespace, _ string) { connectAnother(t, ns) },
		"accept_local is off":  func(t *testing.T, ns *netns.Namespace, _ string) { ns.Sysctl("net.ipv4.conf.lo.accept_local", "0") },
		"tcp_tw_reuse changed": func(t *testing.T, ns *netns.Namespace, _ string) { ns.Sysctl("net.ipv4.tcp_tw_reuse", "0") },
		"a rule gone":          func(t *testing.T, ns *netns.Namespace, _ string) { deleteRule(t, ns, netlink.FAMILY_V4, 32763, 101) },
		"the own rule gone":    func(t *testing.T, ns *netns.Namespace, _ string) { deleteRule(t, ns, netlink.FAMILY_V4, 1, 102) },
		"a rule of IPv6 gone": func(t *testing.T, ns *netns.Namespace, _ string) {
			deleteRule(t, ns, netlink.FAMILY_V6, 32763, 101)
		},
		"the own rule of IPv6 gone": func(t *testing.T, ns *netns.Namespace, _ string) { deleteRule(t, ns, netlink.FAMILY_V6, 1, 102) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			useEngine(t, "ebpf")
			pod, peer := newPair(t)
			app(t, peer, "the peer", 9080)
			announcer(t, pod, redirect.PortOutbound)
			announcer(t, pod, redirect.PortInbound)
			set(t, pod, redirect.Capture)
			dirs, err := filepath.Glob(filepath.Join(under.pins, "tulle-v1", "*"))
			if err != nil || len(dirs) != 1 {
				t.Fatalf("pins in %v (%v)", dirs, err)
			}
			damage(t, pod, dirs[0])
			wantState(t, pod, redirect.Damaged)
			set(t, pod, redirect.Capture)
			wantState(t, pod, redirect.Capture)
			wantAllCaptured(t, pod, peer)
			set(t, pod, redirect.Removed)
			if _, err := os.Stat(dirs[0]); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("pins are left: %v", err)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func connectAnother(t *testing.T, ns *netns.Namespace) {
	netns.Connect(ns, netns.New(t, "tulle-redirect-test"), "eth1", []netip.Prefix{netip.MustParsePrefix("10.78.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.78.0.2/24")})
}

func deleteRule(t *testing.T, ns *netns.Namespace, family, priority, table int) {
	t.Helper()
	err := ns.Do(func() error {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Table = family, priority, table
		return netlink.RuleDel(rule)
	})
	if err != nil {
		t.Fatal(err)
	}
}
