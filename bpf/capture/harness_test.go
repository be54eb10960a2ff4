package capture

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Addresses of the tests. own and peer are a pod's and another's.
var (
	own4, own6     = netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")
	peer4, peer6   = netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("fd77::2")
	probe4, probe6 = netip.MustParseAddr("169.254.7.127"), netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
)

// pod makes a pod's maps in a bpffs of the test's own.
func pod(t *testing.T) *Pod {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root")
	}
	if os.Geteuid() != 0 {
		t.Fatal("needs root; without: go test -short")
	}
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	p, err := Create(filepath.Join(dir, "tulle", "1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.SetOwn([]netip.Addr{own4, own6}); err != nil {
		t.Fatal(err)
	}
	return p
}

// programs loads the pod's programs without attaching them.
func (p *Pod) programs(t *testing.T) *programPrograms {
	t.Helper()
	var loaded programPrograms
	if err := p.load(&loaded); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loaded.Close() })
	return &loaded
}

// from says where the test's packets come from. A test run can't say it itself: it is always interface 0.
func (p *Pod) from(t *testing.T, on Switches, wire bool) {
	t.Helper()
	s := settings{On: uint32(on), Loopback: 0}
	if wire {
		s.Loopback = loopbackIndex
	}
	if err := p.maps.Settings.Put(uint32(0), s); err != nil {
		t.Fatal(err)
	}
}

// sockets fills slots with real listening sockets, and tells their cookies.
func (p *Pod) sockets(t *testing.T, slots ...Slot) map[Slot]uint64 {
	t.Helper()
	fds, cookies := map[Slot]int{}, map[Slot]uint64{}
	for _, slot := range slots {
		fd, cookie := listener(t, slot)
		fds[slot], cookies[slot] = fd, cookie
	}
	if err := p.Listen(fds); err != nil {
		t.Fatal(err)
	}
	return cookies
}

// listener is a socket for a slot; those for IPv6 alone have its family, the others serve both where they can.
func listener(t *testing.T, slot Slot) (fd int, cookie uint64) {
	t.Helper()
	network, address := "tcp", "[::]:0"
	switch slot {
	case DNSTCP:
		network, address = "tcp4", "127.0.0.1:0"
	case DNSTCP6:
		network, address = "tcp6", "[::1]:0"
	case DNSUDP:
		network, address = "udp4", "127.0.0.1:0"
	case DNSUDP6:
		network, address = "udp6", "[::1]:0"
	}
	var conn syscall.Conn
	if network[:3] == "udp" {
		udp, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { udp.Close() })
		conn = udp.(*net.UDPConn)
	} else {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		tcp, err := lc.Listen(t.Context(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close() })
		conn = tcp.(*net.TCPListener)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(s uintptr) {
		fd = int(s)
		cookie, _ = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	})
	if err != nil || cookie == 0 {
		t.Fatalf("no cookie of %s (%v)", slot, err)
	}
	return fd, cookie
}

// lookupContext is struct bpf_sk_lookup of linux/bpf.h. Cookie is what the program has chosen.
type lookupContext struct {
	Cookie           uint64
	Family, Protocol uint32
	RemoteIP4        [4]byte
	RemoteIP6        [16]byte
	RemotePort       [2]byte // network order
	_                [2]byte
	LocalIP4         [4]byte
	LocalIP6         [16]byte
	LocalPort        uint32 // host order
	Ingress          uint32
	_                [4]byte
}

func contextOf(protocol int, local, remote netip.AddrPort) lookupContext {
	c := lookupContext{Protocol: uint32(protocol), LocalPort: uint32(local.Port())}
	binary.BigEndian.PutUint16(c.RemotePort[:], remote.Port())
	if local.Addr().Is4() {
		c.Family, c.LocalIP4, c.RemoteIP4 = unix.AF_INET, local.Addr().As4(), remote.Addr().As4()
	} else {
		c.Family, c.LocalIP6, c.RemoteIP6 = unix.AF_INET6, local.Addr().As16(), remote.Addr().As16()
	}
	return c
}

// frame builds packets for egress, layer by layer.
type frame []byte

const (
	flagFIN, flagSYN, flagRST, flagACK = 1, 2, 4, 16
	ethernetLen                        = 14
)

// tcpFrame is a TCP packet with flags; extras go between the addresses and TCP's header: options of IPv4, or extensions of IPv6.
func tcpFrame(from, to netip.AddrPort, flags byte, extras ...extra) frame {
	header := make([]byte, 20)
	binary.BigEndian.PutUint16(header[0:], from.Port())
	binary.BigEndian.PutUint16(header[2:], to.Port())
	header[12], header[13] = 5<<4, flags
	return ipFrame(from.Addr(), to.Addr(), unix.IPPROTO_TCP, header, extras...)
}

func udpFrame(from, to netip.AddrPort, extras ...extra) frame {
	header := make([]byte, 8)
	binary.BigEndian.PutUint16(header[0:], from.Port())
	binary.BigEndian.PutUint16(header[2:], to.Port())
	binary.BigEndian.PutUint16(header[4:], 8)
	return ipFrame(from.Addr(), to.Addr(), unix.IPPROTO_UDP, header, extras...)
}

// extra is an extension header of IPv6 with its number, or IPv4's options (number 0), whose length is a multiple of four.
type extra struct {
	number byte
	data   []byte // an extension's first byte is filled in
}

func ipFrame(from, to netip.Addr, protocol byte, payload []byte, extras ...extra) frame {
	b := make(frame, 12, 128)
	for i := range b {
		b[i] = 2
	}
	if from.Is4() {
		b = append(b, 8, 0)
		ip := make([]byte, 20)
		for _, e := range extras {
			ip = append(ip, e.data...)
		}
		ip[0], ip[8], ip[9] = 4<<4|byte(len(ip)/4), 64, protocol
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(payload)))
		copy(ip[12:], from.AsSlice())
		copy(ip[16:], to.AsSlice())
		return append(append(b, ip...), payload...)
	}
	b = append(b, 0x86, 0xdd)
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 6<<4, protocol, 64
	copy(ip[8:], from.AsSlice())
	copy(ip[24:], to.AsSlice())
	next := &ip[6]
	var chain []byte
	for _, e := range extras {
		*next = e.number
		data := append([]byte{}, e.data...)
		data[0] = protocol
		chain = append(chain, data...)
		next = &chain[len(chain)-len(data)]
	}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(chain)+len(payload)))
	return append(append(append(b, ip...), chain...), payload...)
}

func (f frame) cut(length int) frame { return f[:length] }

// patched replaces one byte.
func (f frame) patched(at int, value byte) frame {
	f[at] = value
	return f
}

func at(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
