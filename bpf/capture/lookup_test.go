package capture

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP

// What lookup does, beside a slot.
const (
	passes = slotCount + iota
	drops
)

func TestLookupChoosesTheListener(t *testing.T) {
	const all = In | Out | DNS
	p := pod(t)
	programs := p.programs(t)
	var every []Slot
	for slot := range slotCount {
		every = append(every, slot)
	}
	cookies := p.sockets(t, every...)
	loopback4, loopback6 := netip.MustParseAddr("127.0.0.2"), netip.IPv6Loopback()
	other4 := netip.MustParseAddr("10.9.9.9")
	cases := []struct {
		name          string
		on            Switches
		wire          bool
		protocol      int
		local, remote netip.AddrPort
		want          Slot
	}{
		{"inbound", all, true, tcp, at(own4, 80), at(peer4, 4000), Inbound},
		{"inbound, IPv6", all, true, tcp, at(own6, 80), at(peer6, 4000), Inbound},
		{"inbound for DNS", all, true, tcp, at(own4, 53), at(peer4, 4000), Inbound},
		{"inbound to the proxy's own port", all, true, tcp, at(own4, 15006), at(peer4, 4000), Inbound},
		{"a tunnel", all, true, tcp, at(own4, 15008), at(peer4, 4000), HBONE},
		{"a tunnel, IPv6", all, true, tcp, at(own6, 15008), at(peer6, 4000), HBONE},
		{"a tunnel while draining", 0, true, tcp, at(own6, 15008), at(peer6, 4000), HBONE},
		{"inbound while draining", 0, true, tcp, at(own4, 80), at(peer4, 4000), passes},
		{"inbound where only outbound is captured", Out, true, tcp, at(own4, 80), at(peer4, 4000), passes},
		{"a probe", all, true, tcp, at(own4, 80), at(probe4, 4000), passes},
		{"a probe, IPv6", all, true, tcp, at(own6, 80), at(probe6, 4000), passes},
		{"nearly a probe", all, true, tcp, at(own6, 80), at(netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:fffe"), 4000), Inbound},
		{"the pod to itself", all, true, tcp, at(own4, 80), at(own4, 4000), passes},
		{"the pod to itself, IPv6", all, true, tcp, at(own6, 80), at(own6, 4000), passes},
		{"to a new address of the pod by itself", all, true, tcp, at(other4, 80), at(other4, 4000), passes},
		{"the pod to its new address", all, true, tcp, at(other4, 80), at(own4, 4000), passes},
		{"the proxy to the app", all, false, tcp, at(own4, 80), at(peer4, 4000), passes},
		{"the proxy to the app, IPv6", all, false, tcp, at(own6, 80), at(peer6, 4000), passes},
		{"loopback", all, false, tcp, at(loopback4, 80), at(loopback4, 4000), passes},
		{"loopback, IPv6", all, false, tcp, at(loopback6, 80), at(loopback6, 4000), passes},
		{"outbound", all, false, tcp, at(peer4, 80), at(own4, 4000), Outbound},
		{"outbound, IPv6", all, false, tcp, at(peer6, 80), at(own6, 4000), Outbound},
		{"outbound to a tunnel's port", all, false, tcp, at(peer4, 15008), at(own4, 4000), Outbound},
		{"outbound that was turned around just before draining", 0, false, tcp, at(peer4, 80), at(own4, 4000), Outbound},
		{"a name", all, false, udp, at(peer4, 53), at(own4, 4000), DNSUDP},
		{"a name, IPv6", all, false, udp, at(peer6, 53), at(own6, 4000), DNSUDP6},
		{"a name by TCP", all, false, tcp, at(peer4, 53), at(own4, 4000), DNSTCP},
		{"a name by TCP, IPv6", all, false, tcp, at(peer6, 53), at(own6, 4000), DNSTCP6},
		{"a name by TCP without DNS", In | Out, false, tcp, at(peer4, 53), at(own4, 4000), Outbound},
		{"a name of the pod's own server", all, false, udp, at(own4, 53), at(own4, 4000), passes},
		{"a name on loopback", all, false, udp, at(loopback4, 53), at(loopback4, 4000), passes},
		{"another datagram", all, false, udp, at(peer4, 54), at(own4, 4000), passes},
		{"a datagram from the wire", all, true, udp, at(own4, 53), at(peer4, 4000), passes},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p.from(t, c.on, c.wire)
			if got := choose(t, programs.TulleLookup, cookies, contextOf(c.protocol, c.local, c.remote)); got != c.want {
				t.Errorf("it is %s, want %s", outcome(got), outcome(c.want))
			}
		})
	}
}

func choose(t *testing.T, lookup *ebpf.Program, cookies map[Slot]uint64, in lookupContext) Slot {
	t.Helper()
	var out lookupContext
	verdict, err := lookup.Run(&ebpf.RunOptions{Context: in, ContextOut: &out})
	if err != nil {
		t.Fatal(err)
	}
	if verdict == 0 {
		return drops
	}
	for slot, cookie := range cookies {
		if out.Cookie == cookie {
			return slot
		}
	}
	if out.Cookie != 0 {
		t.Fatalf("a socket that nobody knows: %d", out.Cookie)
	}
	return passes
}

func outcome(s Slot) string {
	switch s {
	case passes:
		return "left to the app"
	case drops:
		return "dropped"
	}
	return s.String()
}

// Without a proxy, what is captured goes nowhere.
func TestEmptySlotsAreClosedNotOpen(t *testing.T) {
	p := pod(t)
	programs := p.programs(t)
	cookies := p.sockets(t, Outbound, Inbound, HBONE, DNSTCP, DNSUDP)
	p.sockets(t) // all is taken out
	for _, c := range []struct {
		name     string
		on       Switches
		wire     bool
		protocol int
		to, from netip.AddrPort
		want     Slot
	}{
		{"inbound", In, true, tcp, at(own4, 80), at(peer4, 4000), drops},
		{"a tunnel", In, true, tcp, at(own4, 15008), at(peer4, 4000), drops},
		{"a tunnel while draining comes to whoever listens", 0, true, tcp, at(own4, 15008), at(peer4, 4000), passes},
		{"outbound", Out, false, tcp, at(peer4, 80), at(own4, 4000), drops},
		{"a name", In | Out | DNS, false, udp, at(peer4, 53), at(own4, 4000), drops},
		{"a probe", In, true, tcp, at(own4, 80), at(probe4, 4000), passes},
	} {
		p.from(t, c.on, c.wire)
		if got := choose(t, programs.TulleLookup, cookies, contextOf(c.protocol, c.to, c.from)); got != c.want {
			t.Errorf("%s is %s, want %s", c.name, outcome(got), outcome(c.want))
		}
	}
	counts, err := p.Count()
	if err != nil || counts.Refused != 5 || counts.Passed != 1 {
		t.Errorf("counted %+v (%v), want 5 refused and 1 passed", counts, err)
	}
}

// A socket whose last descriptor is closed has left its slot.
func TestClosedListenersEmptyTheirSlots(t *testing.T) {
	p := pod(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	if err := p.Listen(map[Slot]int{Inbound: fd}); err != nil {
		t.Fatal(err)
	}
	if in, err := p.Listeners(); err != nil || len(in) != 1 {
		t.Fatalf("slots have %v (%v), want one", in, err)
	}
	unix.Close(fd)
	if in, err := p.Listeners(); err != nil || len(in) != 0 {
		t.Errorf("slots have %v (%v), want none", in, err)
	}
}
