package redirect

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Connections counts the app's live connections that pass the proxy: captured ones, and those which the proxy made to
// the app for a tunnel's streams. A tunnel without streams isn't counted; peers keep such for minutes.
func Connections(ns *socket.Netns) (int, error) {
	count := 0
	err := ns.Do(func() error {
		at, err := openPlace(ns.ID())
		if err != nil {
			return err
		}
		defer at.close()
		own, err := at.ownAddresses()
		if err != nil {
			return err
		}
		sockets, err := allSockets()
		for _, s := range sockets {
			if s.alive() && s.carriesApp(own) {
				count++
			}
		}
		return err
	})
	return count, err
}

// allSockets lists the TCP sockets of the calling thread's namespace that are connected, or just becoming so or ending.
func allSockets() (all []diagSocket, err error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := eachSocket(family, func(s diagSocket) { all = append(all, s) }); err != nil {
			return nil, fmt.Errorf("list the pod's sockets: %w", err)
		}
	}
	return all, nil
}

func (p place) ownAddresses() (map[netip.Addr]bool, error) {
	addrs, err := p.routes.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the pod's addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, addr := range addrs {
		if ip, ok := netip.AddrFromSlice(addr.IP); ok {
			own[ip.Unmap()] = true
		}
	}
	return own, nil
}

// diagSocket is what inet_diag tells of a TCP socket.
type diagSocket struct {
	state         byte
	local, remote netip.AddrPort
	inode         uint32
	mark          uint32
}

// alive is false for sockets which no process holds any more: what they still do needs no proxy.
func (s diagSocket) alive() bool {
	return s.inode != 0 || s.state == unix.BPF_TCP_ESTABLISHED
}

func (s diagSocket) carriesApp(own map[netip.Addr]bool) bool {
	switch s.local.Port() {
	case PortOutbound, PortInbound:
		return true
	case PortHBONE:
		return false
	}
	if s.isTransparent(own) {
		return true
	}
	return s.mark&markMask == proxyMark && own[s.remote.Addr()] && s.remote.Port() != PortHBONE
}

// isTransparent tells that it is the proxy's end of a connection, with the address of the app's other end.
func (s diagSocket) isTransparent(own map[netip.Addr]bool) bool {
	return s.mark&markMask == proxyMark && !own[s.local.Addr()] && !s.local.Addr().IsLoopback()
}

// Layout of struct inet_diag_req_v2 and inet_diag_msg, linux/inet_diag.h.
const (
	diagRequestLen = 56
	diagMessageLen = 72
	diagMark       = 15 // INET_DIAG_MARK, told to CAP_NET_ADMIN
)

// connected has the states between handshake and the end of a connection, as bits.
const connected = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_SYN_SENT | 1<<unix.BPF_TCP_FIN_WAIT1 |
	1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING

// eachSocket lists the TCP sockets of the calling thread's namespace.
func eachSocket(family byte, visit func(diagSocket)) error {
	request := make([]byte, diagRequestLen)
	request[0], request[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], connected)
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(request)
	var broken error
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		s, err := parseSocket(msg)
		if err != nil {
			broken = err
			return false
		}
		visit(s)
		return true
	})
	if err == nil {
		err = broken
	}
	return err
}

func parseSocket(msg []byte) (diagSocket, error) {
	if len(msg) < diagMessageLen {
		return diagSocket{}, fmt.Errorf("socket message of %d bytes, want %d", len(msg), diagMessageLen)
	}
	length := 4
	if msg[0] == unix.AF_INET6 {
		length = 16
	}
	address := func(at, port int) netip.AddrPort {
		ip, _ := netip.AddrFromSlice(msg[at : at+length])
		return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(msg[port:]))
	}
	s := diagSocket{
		state: msg[1],
		local: address(8, 4), remote: address(24, 6),
		inode: binary.NativeEndian.Uint32(msg[68:]),
	}
	s.mark = markOf(msg[diagMessageLen:])
	return s, nil
}

// markOf finds the mark among a message's attributes: two bytes length, two bytes type, a value, padding to four.
func markOf(attrs []byte) uint32 {
	for len(attrs) >= 4 {
		length, kind := int(binary.NativeEndian.Uint16(attrs)), binary.NativeEndian.Uint16(attrs[2:])
		if length < 4 || length > len(attrs) {
			break
		}
		if kind == diagMark && length >= 8 {
			return binary.NativeEndian.Uint32(attrs[4:])
		}
		attrs = attrs[min((length+3)&^3, len(attrs)):]
	}
	return 0
}
