package redirect_test

import (
	"context"
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
			want := redirect.Counts{redirect.Outbound: 4, redirect.Inbound: 2, redirect.Bypassed: 2, redirect.DNS: 0}
			if how.Ingress {
				want[redirect.Inbound], want[redirect.Bypassed] = 0, 4
			}
			if !under.rewrites() {
				want[redirect.Tunnels], want[redirect.Dropped] = 2, 0
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

// Counting may not end with the proxy: who is turned away is counted as well.
func TestConnectionsWithoutAProxyAreCountedAsDropped(t *testing.T) {
	useEngine(t, string(redirect.EBPF))
	pod, peer := newPair(t)
	set(t, pod, redirect.Capture)
	for _, listener := range under.spare {
		listener.Close()
	}
	clear(under.spare)
	under.given[pod].Close()
	under.given[pod] = nil
	if _, err := peer.Dial(context.Background(), netip.MustParseAddrPort(hostPort(pod4, 9080)), socket.DialConfig{Timeout: time.Second}); err == nil {
		t.Error("somebody answers")
	}
	if got := detail(t, pod).Counts; got[redirect.Dropped] == 0 || got[redirect.Inbound] != 0 {
		t.Errorf("counted %v", got)
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
