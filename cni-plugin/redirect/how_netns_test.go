package redirect_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// A gateway that must see its clients itself gets them; its own connections are captured, and so are tunnels to it.
func TestWhoAnswersInAPodThatBypassesInboundCapture(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, peer := newPair(t)
		app(t, pod, "the pod", 9080)
		app(t, peer, "the peer", 9080)
		for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
			announcer(t, pod, port)
		}
		for _, how := range []redirect.How{{Ingress: true}, {}, {Ingress: true}} { // switched while the pod is in
			set(t, pod, redirect.Capture, how)
			for _, f := range []struct{ pod, peer string }{{pod4, peer4}, {pod6, peer6}} {
				inbound := "the pod hears " + f.peer
				if !how.Ingress {
					inbound = "proxy on 15006 for " + hostPort(f.pod, 9080)
				}
				for _, c := range []struct {
					caller   *netns.Namespace
					to, want string
				}{
					{peer, hostPort(f.pod, 9080), inbound},
					{peer, hostPort(f.pod, redirect.PortHBONE), "proxy on 15008 for " + hostPort(f.pod, redirect.PortHBONE)},
					{pod, hostPort(f.peer, 9080), "proxy on 15001 for " + hostPort(f.peer, 9080)},
				} {
					l := mustDial(t, c.caller, c.to, socket.DialConfig{})
					if l.banner != c.want {
						t.Errorf("%+v: dial %s: %q answered, want %q", how, c.to, l.banner, c.want)
					}
					l.alive(t, "then")
				}
				// The proxy still calls the app in the name of a tunnel's client.
				stranger := stranger4
				if f.pod == pod6 {
					stranger = stranger6
				}
				l := mustDial(t, pod, hostPort(f.pod, 9080), socket.DialConfig{Mark: socket.Mark, Source: netip.MustParseAddr(stranger)})
				if want := "the pod hears " + stranger; l.banner != want {
					t.Errorf("%q answered, want %q", l.banner, want)
				}
				l.alive(t, "then")
			}
		}
	})
}

// Addresses on the link between a pod and a virtual machine in it.
const (
	tap4, tap6     = "10.79.0.1", "fd79::1"
	guest4, guest6 = "10.79.0.2", "fd79::2"
)

// newGuest makes a virtual machine in the pod: a namespace behind an interface of the pod's, which forwards and masks it.
func newGuest(t *testing.T, pod *netns.Namespace) *netns.Namespace {
	t.Helper()
	guest := netns.New(t, "tulle-redirect-test")
	both := func(v4, v6 string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(v4 + "/24"), netip.MustParsePrefix(v6 + "/64")}
	}
	netns.Connect(pod, guest, "tap0", both(tap4, tap6), both(guest4, guest6))
	for _, via := range []string{tap4, tap6} {
		addr := netip.MustParseAddr(via)
		guest.Route(netip.PrefixFrom(addr, 0).Masked(), addr)
	}
	pod.Sysctl("net.ipv4.ip_forward", "1")
	pod.Sysctl("net.ipv6.conf.all.forwarding", "1")
	return guest
}

// What a virtual machine in the pod opens is captured as if the pod had opened it, on the interfaces that are named, whether to somebody
// else or to the pod.
func TestWhoAnswersAVirtualMachineInThePod(t *testing.T) {
	for _, engine := range []string{redirect.Auto, string(redirect.NFT), string(redirect.EBPF), string(redirect.IPTablesNFT), string(redirect.IPTablesLegacy)} {
		t.Run(engine, func(t *testing.T) {
			useEngine(t, engine)
			whoAnswersAVirtualMachineInThePod(t)
		})
	}
}

func whoAnswersAVirtualMachineInThePod(t *testing.T) {
	pod, peer := newPair(t)
	guest := newGuest(t, pod)
	app(t, pod, "the pod", 9080)
	app(t, peer, "the peer", 9080)
	relay(t, pod, redirect.PortOutbound)
	announcer(t, pod, redirect.PortInbound)
	for _, back := range []string{guest4 + "/32", guest6 + "/128"} {
		via := netip.MustParseAddr(pod4)
		if strings.Contains(back, "::") {
			via = netip.MustParseAddr(pod6)
		}
		peer.Route(netip.MustParsePrefix(back), via)
	}
	var before []*line
	for _, to := range []string{peer4, peer6} { // opened before the pod is in
		l := mustDial(t, guest, hostPort(to, 9080), socket.DialConfig{})
		if strings.HasPrefix(l.banner, "relayed") {
			t.Errorf("%q answered before there was capture", l.banner)
		}
		before = append(before, l)
	}
	set(t, pod, redirect.Capture, redirect.How{Virtual: "docker0,tap0"})
	if under.engine == redirect.Auto {
		wantEngine(t, pod, redirect.NFT) // by which also what comes from outside to the guest is captured
	}
	var captured []*line
	for to, want := range map[string]string{
		hostPort(peer4, 9080): "relayed: the peer hears " + pod4,
		hostPort(peer6, 9080): "relayed: the peer hears " + pod6,
		hostPort(tap4, 9080):  "relayed: the pod hears " + tap4,
	} {
		l := mustDial(t, guest, to, socket.DialConfig{})
		if l.banner != want {
			t.Errorf("the guest dials %s: %q answered, want %q", to, l.banner, want)
		}
		captured = append(captured, l)
	}
	for _, l := range append(before, captured...) {
		l.alive(t, "while-captured")
	}
	// Others aren't affected.
	for _, c := range []struct {
		caller   *netns.Namespace
		to, want string
	}{
		{pod, hostPort(peer4, 9080), "relayed: the peer hears " + pod4},
		{pod, hostPort(peer6, 9080), "relayed: the peer hears " + pod6},
		{peer, hostPort(pod4, 9080), "proxy on 15006 for " + hostPort(pod4, 9080)},
		{peer, hostPort(pod6, 9080), "proxy on 15006 for " + hostPort(pod6, 9080)},
	} {
		if l := mustDial(t, c.caller, c.to, socket.DialConfig{}); l.banner != c.want {
			t.Errorf("dial %s: %q answered, want %q", c.to, l.banner, c.want)
		}
	}
	set(t, pod, redirect.Draining)
	for _, l := range append(before, captured...) {
		l.alive(t, "while-draining")
	}
	set(t, pod, redirect.Removed)
	if l := mustDial(t, guest, hostPort(peer4, 9080), socket.DialConfig{}); l.banner != "the peer hears "+guest4 {
		t.Errorf("without capture %q answered", l.banner)
	}
}

// An interface may come after the pod was enrolled, as containers do. By rules it's captured from its first packet; for programs, the next
// look finds it, and until then nothing gets out.
func TestAVirtualInterfaceMayComeLater(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, peer := newPair(t)
		app(t, peer, "the peer", 9080)
		announcer(t, pod, redirect.PortOutbound)
		how := redirect.How{Virtual: "tap0"}
		set(t, pod, redirect.Capture, how)
		guest := newGuest(t, pod)
		if met := look(t, pod, how); met != under.rewrites() {
			t.Errorf("nothing to do: %t", met)
		}
		if !under.rewrites() {
			if conn, err := guest.Dial(context.Background(), netip.MustParseAddrPort(hostPort(peer4, 9080)), socket.DialConfig{Timeout: time.Second}); err == nil {
				conn.Close()
				t.Error("a connection has escaped")
			}
		}
		set(t, pod, redirect.Capture, how)
		if !look(t, pod, how) {
			t.Error("there is still something to do")
		}
		for _, to := range []string{hostPort(peer4, 9080), hostPort(peer6, 9080)} {
			if l := mustDial(t, guest, to, socket.DialConfig{}); l.banner != "proxy on 15001 for "+to {
				t.Errorf("%q answered", l.banner)
			}
		}
	})
}

// look tells whether nothing is left to do.
func look(t *testing.T, pod *netns.Namespace, how redirect.How) bool {
	t.Helper()
	seen, err := under.Look(pod.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer seen.Close()
	met, err := seen.Met(desired(t, pod, redirect.Capture, how))
	if err != nil {
		t.Fatal(err)
	}
	return met
}

// Who comes from outside to a virtual machine whose address stands for by the pod's is no connection of the pod's: by rules the proxy gets
// it as any other that comes in, programs drop it.
func TestNobodyComesPastTheProxyToAVirtualMachine(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, peer := newPair(t)
		guest := newGuest(t, pod)
		app(t, guest, "the guest", 9080)
		relay(t, pod, redirect.PortOutbound)
		announcer(t, pod, redirect.PortInbound)
		peer.Route(netip.MustParsePrefix(guest4+"/32"), netip.MustParseAddr(pod4))
		set(t, pod, redirect.Capture, redirect.How{Virtual: "tap0"})
		to := netip.MustParseAddrPort(hostPort(guest4, 9080))
		if !under.rewrites() {
			if conn, err := peer.Dial(context.Background(), to, socket.DialConfig{Timeout: time.Second}); err == nil {
				conn.Close()
				t.Error("somebody answers")
			}
			if got := detail(t, pod).Counts; got[redirect.Dropped] == 0 || got[redirect.Outbound] != 0 {
				t.Errorf("counted %v", got)
			}
			return
		}
		if l := mustDial(t, peer, to.String(), socket.DialConfig{}); l.banner != "proxy on 15006 for "+to.String() {
			t.Errorf("%q answered", l.banner)
		}
	})
}
