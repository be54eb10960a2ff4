package socket

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST of the IPv6 level.
const soOriginalDst = 80

// OriginalDst returns what the client of an accepted connection dialled: the destination before NAT if there was one,
// else the socket's local address, which capture without NAT leaves as it was. IPv4-mapped addresses are unmapped.
func OriginalDst(conn *net.TCPConn) (netip.AddrPort, error) {
	local := Unmap(conn.LocalAddr())
	if !local.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("original destination: %v is no TCP address", conn.LocalAddr())
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	original := local
	err = onSocket(raw, func(fd int) error {
		if addr, ok := beforeNAT(fd, local.Addr().Is4()); ok {
			original = addr
		}
		return nil
	})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	return original, nil
}

// beforeNAT asks the kernel. The getters are those of other options with large enough answers.
func beforeNAT(fd int, is4 bool) (netip.AddrPort, bool) {
	if is4 {
		answer, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}, false
		}
		sockaddr := answer.Multiaddr // struct sockaddr_in: family, port and address in network order
		addr := netip.AddrFrom4([4]byte(sockaddr[4:8]))
		return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(sockaddr[2:4])), true
	}
	answer, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, false
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], answer.Addr.Port)
	return netip.AddrPortFrom(netip.AddrFrom16(answer.Addr.Addr).Unmap(), binary.BigEndian.Uint16(port[:])), true
}

// Unmap returns a TCP address as a value, IPv4-mapped IPv6 as IPv4; the zero AddrPort for any other address.
func Unmap(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
