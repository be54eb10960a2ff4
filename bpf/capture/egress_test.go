package capture

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What egress does. These are TCX_NEXT, TC_ACT_SHOT and TC_ACT_REDIRECT of linux/bpf.h.
const (
	leaves  = ^uint32(0)
	dropped = 2
	turned  = 7
)

// packetContext is the start of struct __sk_buff of linux/bpf.h.
type packetContext struct {
	Len, PacketType, Mark uint32
	_                     [24]byte
	Ingress               uint32 // index of the interface by which it came, 0 for the pod's own
	_                     [152]byte
}

func TestEgressTurnsAround(t *testing.T) {
	const all = In | Out | DNS
	p := pod(t)
	egress := p.programs(t).TulleEgress
	app4, app6 := at(own4, 4000), at(own6, 4000)
	web4, web6, dns4, dns6 := at(peer4, 80), at(peer6, 80), at(peer4, 53), at(peer6, 53)
	options := extra{data: make([]byte, 8)}
	hop := extra{unix.IPPROTO_HOPOPTS, make([]byte, 8)}
	routing := extra{unix.IPPROTO_ROUTING, []byte{0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}
	fragment := func(high, low byte) extra { return extra{unix.IPPROTO_FRAGMENT, []byte{0, 0, high, low, 0, 0, 0, 1}} }
	var long []extra
	for range 7 {
		long = append(long, hop)
	}
	cases := []struct {
		name  string
		on    Switches
		mark  uint32
		frame frame
		want  uint32
	}{
		{"a SYN", all, 0, tcpFrame(app4, web4, flagSYN), turned},
		{"a SYN, IPv6", all, 0, tcpFrame(app6, web6, flagSYN), turned},
		{"a SYN with ECN", all, 0, tcpFrame(app4, web4, flagSYN|0xc0), turned},
		{"a SYN with another mark", all, 0x1000, tcpFrame(app4, web4, flagSYN), turned},
		{"a SYN behind options", all, 0, tcpFrame(app4, web4, flagSYN, options), turned},
		{"a SYN behind extensions", all, 0, tcpFrame(app6, web6, flagSYN, hop, routing), turned},
		{"a SYN in the first fragment", all, 0, tcpFrame(app6, web6, flagSYN, fragment(0, 1)), turned},
		{"a SYN while draining", 0, 0, tcpFrame(app4, web4, flagSYN), leaves},
		{"a SYN where only inbound is captured", In, 0, tcpFrame(app4, web4, flagSYN), leaves},
		{"a SYN of the proxy", all, 0x539, tcpFrame(app4, web4, flagSYN), leaves},
		{"a SYN of the proxy with other bits", all, 0xabc000 | 0x539, tcpFrame(app6, web6, flagSYN), leaves},
		{"a SYN to a probe's address", all, 0, tcpFrame(app4, at(probe4, 80), flagSYN), leaves},
		{"an answer to a probe", all, 0, tcpFrame(at(own6, 80), at(probe6, 4000), flagSYN|flagACK), leaves},
		{"an answer to a direct connection", all, 0, tcpFrame(at(own4, 80), at(peer4, 4000), flagSYN|flagACK), leaves},
		{"a packet of an older connection", all, 0, tcpFrame(app4, web4, flagACK), leaves},
		{"a packet of an older connection, IPv6", all, 0, tcpFrame(app6, web6, flagACK), leaves},
		{"a SYN that is none", all, 0, tcpFrame(app4, web4, flagSYN|flagRST), leaves},
		{"a SYN and an end in one", all, 0, tcpFrame(app4, web4, flagSYN|flagFIN), leaves},
		{"a later fragment", all, 0, tcpFrame(app4, web4, flagSYN).patched(ethernetLen+7, 1), leaves},
		{"a later fragment, IPv6", all, 0, tcpFrame(app6, web6, flagSYN, fragment(0, 8)), leaves},
		{"a later fragment far behind, IPv6", all, 0, tcpFrame(app6, web6, flagSYN, fragment(1, 0)), leaves},
		{"too many extensions to understand", all, 0, tcpFrame(app6, web6, flagSYN, long...), dropped},
		{"too many extensions to understand while draining", 0, 0, tcpFrame(app6, web6, flagSYN, long...), leaves},
		{"extensions without an end", all, 0, tcpFrame(app6, web6, flagSYN, hop).cut(ethernetLen + 42), dropped},
		{"half a TCP header", all, 0, tcpFrame(app4, web4, flagSYN).cut(ethernetLen + 30), dropped},
		{"half a TCP header while draining", 0, 0, tcpFrame(app4, web4, flagSYN).cut(ethernetLen + 30), leaves},
		{"an IP header that is too short", all, 0, tcpFrame(app4, web4, flagSYN).patched(ethernetLen, 4<<4|4), dropped},
		{"another protocol", all, 0, ipFrame(own4, peer4, unix.IPPROTO_ICMP, make([]byte, 8)), leaves},
		{"a name", all, 0, udpFrame(app4, dns4), turned},
		{"a name, IPv6", all, 0, udpFrame(app6, dns6), turned},
		{"a name by TCP", all, 0, tcpFrame(app4, dns4, flagSYN), turned},
		{"a name without DNS", In | Out, 0, udpFrame(app4, dns4), leaves},
		{"a name of the proxy", all, 0x539, udpFrame(app4, dns4), leaves},
		{"another datagram", all, 0, udpFrame(app4, at(peer4, 54)), leaves},
		{"half a datagram's header", all, 0, udpFrame(app4, dns4).cut(ethernetLen + 24), leaves},
		{"no IP", all, 0, tcpFrame(app4, web4, flagSYN).patched(12, 0x88), leaves},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := p.Switch(c.on); err != nil {
				t.Fatal(err)
			}
			if got := leave(t, egress, c.mark, c.frame); got != c.want {
				t.Errorf("verdict %d, want %d", int32(got), int32(c.want))
			}
		})
	}
}

// leave runs egress, and looks at what becomes of a packet that is turned around.
func leave(t *testing.T, egress *ebpf.Program, mark uint32, f frame) uint32 {
	t.Helper()
	if len(f) < ethernetLen {
		t.Fatal("too short for a test run")
	}
	var out packetContext
	opts := &ebpf.RunOptions{Data: f, DataOut: make([]byte, len(f)+64), Context: packetContext{Mark: mark}, ContextOut: &out}
	verdict, err := egress.Run(opts)
	if err != nil {
		t.Fatal(err)
	}
	if verdict != turned {
		return verdict
	}
	if want := mark&^0xfff | 0x540; out.Mark != want {
		t.Errorf("mark is %#x, want %#x", out.Mark, want)
	}
	if !bytes.Equal(opts.DataOut[:6], make([]byte, 6)) || !bytes.Equal(opts.DataOut[6:], f[6:]) {
		t.Errorf("more than the hardware address has changed:\n%x\n%x", []byte(f), opts.DataOut)
	}
	return verdict
}

// Packets of a connection whose other end is in the pod are turned around, whatever is captured now.
func TestEgressKnowsTheProxysConnections(t *testing.T) {
	p := pod(t)
	egress := p.programs(t).TulleEgress
	for name, address := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			client, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			from, to := addrPort(client.LocalAddr()), addrPort(client.RemoteAddr())
			for _, on := range []Switches{0, In | Out} {
				if err := p.Switch(on); err != nil {
					t.Fatal(err)
				}
				if got := leave(t, egress, 0, tcpFrame(from, to, flagACK)); got != turned {
					t.Errorf("a packet of the connection: verdict %d, want %d", int32(got), turned)
				}
				// A listener is no connection, though the kernel finds it for one that doesn't exist.
				if got := leave(t, egress, 0, tcpFrame(at(from.Addr(), 1), to, flagACK)); got != leaves {
					t.Errorf("a packet of no connection: verdict %d, want %d", int32(got), int32(-1))
				}
			}
		})
	}
}

// What comes through the pod and isn't its own doesn't get the pod's name.
func TestEgressRefusesForeignConnections(t *testing.T) {
	p := pod(t)
	egress := p.programs(t).TulleEgress
	for _, c := range []struct {
		name string
		on   Switches
		want uint32
	}{{"captured", In | Out, dropped}, {"without inbound", Out, leaves}, {"draining", 0, leaves}} {
		t.Run(c.name, func(t *testing.T) {
			if err := p.Switch(c.on); err != nil {
				t.Fatal(err)
			}
			for flags, want := range map[byte]uint32{flagSYN: c.want, flagACK: leaves} {
				got, err := egress.Run(&ebpf.RunOptions{Data: tcpFrame(at(peer4, 4000), at(own4, 80), flags), Context: packetContext{Ingress: 7}})
				if err != nil || got != want {
					t.Errorf("flags %#x: verdict %d (%v), want %d", flags, int32(got), err, int32(want))
				}
			}
		})
	}
}

func TestVirtualKeepsConnectionsInside(t *testing.T) {
	const all = In | Out
	p := pod(t)
	program := p.programs(t).TulleVirtual
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	guest4, guest6, web4, web6 := at(netip.MustParseAddr("10.79.0.2"), 4000), at(netip.MustParseAddr("fd79::2"), 4000), at(peer4, 80), at(peer6, 80)
	const outside, inside = 0, 0x540
	for _, c := range []struct {
		name    string
		on      Switches
		frame   frame
		verdict uint32
		mark    uint32
	}{
		{"a SYN", all, tcpFrame(guest4, web4, flagSYN), leaves, inside},
		{"a SYN, IPv6", all, tcpFrame(guest6, web6, flagSYN), leaves, inside},
		{"a SYN without inbound", Out, tcpFrame(guest4, web4, flagSYN), leaves, inside},
		{"a SYN while draining", 0, tcpFrame(guest4, web4, flagSYN), leaves, outside},
		{"a packet of an older connection", all, tcpFrame(guest4, web4, flagACK), leaves, outside},
		{"a packet of a captured connection", all, tcpFrame(addrPort(client.LocalAddr()), addrPort(client.RemoteAddr()), flagACK), leaves, inside},
		{"the same while draining", 0, tcpFrame(addrPort(client.LocalAddr()), addrPort(client.RemoteAddr()), flagACK), leaves, inside},
		{"half a TCP header", all, tcpFrame(guest4, web4, flagSYN).cut(ethernetLen + 30), dropped, outside},
		{"half a TCP header while draining", 0, tcpFrame(guest4, web4, flagSYN).cut(ethernetLen + 30), leaves, outside},
		{"a datagram", all, udpFrame(guest4, at(peer4, 53)), leaves, outside},
		{"no IP", all, tcpFrame(guest4, web4, flagSYN).patched(12, 0x88), leaves, outside},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := p.Switch(c.on); err != nil {
				t.Fatal(err)
			}
			var out packetContext
			got, err := program.Run(&ebpf.RunOptions{Data: c.frame, DataOut: make([]byte, len(c.frame)+64), Context: packetContext{}, ContextOut: &out})
			if err != nil || got != c.verdict || out.Mark != c.mark {
				t.Errorf("verdict %d (%v), mark %#x, want %d, %#x", int32(got), err, out.Mark, int32(c.verdict), c.mark)
			}
		})
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
