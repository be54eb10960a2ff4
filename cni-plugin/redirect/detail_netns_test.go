package redirect_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

func detail(t *testing.T, ns *netns.Namespace) redirect.Detail {
	t.Helper()
	seen, err := under.Look(ns.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer seen.Close()
	d, err := seen.Detail()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConnectionsAreCountedByWhatBecameOfThem(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, peer := newPair(t)
		if d := detail(t, pod); d.Generation != "" || d.Links != nil || d.Counts != nil {
			t.Errorf("without capture there is %+v", d)
		}
		app(t, pod, "the pod", 9080)
		for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
			announcer(t, pod, port)
		}
		for _, how := range []redirect.How{{}, {Ingress: true}} {
			set(t, pod, redirect.Capture, how)
			before := detail(t, pod)
			for _, f := range []struct{ pod, peer, probe string }{{pod4, peer4, probe4}, {pod6, peer6, probe6}} {
				mustDial(t, pod, hostPort(f.peer, 9080), socket.DialConfig{}).alive(t, "out")
				mustDial(t, pod, hostPort(f.peer, 9081), socket.DialConfig{}).alive(t, "out")
				mustDial(t, peer, hostPort(f.pod, 9080), socket.DialConfig{}).alive(t, "in")
				mustDial(t, peer, hostPort(f.pod, redirect.PortHBONE), socket.DialConfig{}).alive(t, "by-tunnel")
				mustDial(t, peer, hostPort(f.pod, 9080), socket.DialConfig{Source: netip.MustParseAddr(f.probe)}).alive(t, "probe")
				mustDial(t, pod, hostPort(f.pod, 9080), socket.DialConfig{}).alive(t, "to-itself")
			}
			after := detail(t, pod)
			grown := redirect.Counts{}
			for name, n := range after.Counts {
				grown[name] = n - before.Counts[name]
			}
			want := redirect.Counts{redirect.Outbound: 4, redirect.Inbound: 2, redirect.Tunnels: 2, redirect.Bypassed: 2, redirect.DNS: 0, redirect.Dropped: 0}
			if how.Ingress {
				want[redirect.Inbound], want[redirect.Bypassed] = 0, 4
			}
			if diff := cmp.Diff(want, grown); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", how, diff)
			}
			if after.Generation != before.Generation || after.Generation == "" {
				t.Errorf("generation was %q and is %q", before.Generation, after.Generation)
			}
		}
	})
}

// Counting may not end with the proxy: who is turned away is counted as well, but not what the proxy resets.
func TestConnectionsWithoutAProxyAreCountedAsDropped(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		pod, peer := newPair(t)
		var proxy []*net.TCPListener
		for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound, redirect.PortHBONE} {
			listener := listen(t, pod, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
			proxy = append(proxy, listener)
			go resetAll(listener)
		}
		set(t, pod, redirect.Capture)
		paths := func(dial func(from *netns.Namespace, to string)) {
			dial(pod, hostPort(peer4, 9080))
			dial(pod, hostPort(peer6, 9080))
			for _, port := range []uint16{9080, redirect.PortHBONE} {
				dial(peer, hostPort(pod4, port))
				dial(peer, hostPort(pod6, port))
			}
		}
		paths(func(from *netns.Namespace, to string) {
			conn, err := from.Dial(t.Context(), netip.MustParseAddrPort(to), socket.DialConfig{Timeout: patience})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Write([]byte{0}); err != nil {
				t.Error(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("the proxy's reset is %v", err)
			}
		})
		if got := detail(t, pod).Counts[redirect.Dropped]; got != 0 {
			t.Errorf("of connections that the proxy took, and has reset, %d are counted as dropped", got)
		}
		for _, listener := range proxy {
			listener.Close()
		}
		under.given[pod].Close()
		under.given[pod] = nil
		paths(func(from *netns.Namespace, to string) {
			before := detail(t, pod).Counts[redirect.Dropped]
			if _, err := from.Dial(t.Context(), netip.MustParseAddrPort(to), socket.DialConfig{Timeout: time.Second}); err == nil {
				t.Errorf("somebody answers at %s", to)
			}
			if after := detail(t, pod).Counts[redirect.Dropped]; after == before {
				t.Errorf("the connection to %s isn't counted as dropped", to)
			}
		})
	})
}

// resetAll accepts connections until the listener is closed, and resets each at its first byte.
func resetAll(listener *net.TCPListener) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		go func() {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.SetLinger(0)
			conn.Close()
		}()
	}
}

func TestLinksAndGenerationsTellWhatAPodHas(t *testing.T) {
	eachEngine(t, func(t *testing.T) {
		first, _ := newPair(t)
		second, _ := newPair(t)
		want := map[redirect.Engine]string{
			redirect.NFT: "table istio-ambient-mangle, table istio-ambient-nat", redirect.EBPF: "lookup, egress of eth0",
			redirect.IPTablesNFT: "ip6tables -t mangle, ip6tables -t nat, iptables -t mangle, iptables -t nat",
		}
		want[redirect.IPTablesLegacy] = want[redirect.IPTablesNFT]
		var generations []string
		for _, pod := range []*netns.Namespace{first, second} {
			set(t, pod, redirect.Capture)
			d := detail(t, pod)
			if got := strings.Join(d.Links, ", "); got != want[under.engine] {
				t.Errorf("links %q, want %q", got, want[under.engine])
			}
			generations = append(generations, d.Generation)
		}
		if len(slices.Compact(generations)) != 1 {
			t.Errorf("generations %q, want one", generations)
		}
	})
}
