// Package handover carries listening sockets between node agent and tunnel proxies: packets of the ZDS protocol with
// descriptors, and the list in them of what the descriptors listen on.
package handover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	// MaxPacket is the size of a packet, in bytes, that all who speak ZDS agree on.
	MaxPacket = 1024
	// MaxListeners is how many listeners go with one packet.
	MaxListeners = 16
	// maxFiles is what we make room for: one more than may come, to tell too many from too large.
	maxFiles = 1 + MaxListeners + 1
)

// ErrTooLarge says that the sender had more to say than fits, or that there was no room for its descriptors in this process.
var ErrTooLarge = fmt.Errorf("packet is larger than %d bytes or has too many descriptors", MaxPacket)

// Now is the time by which the proxies of a machine tell which of them started last: since the machine's start, and nobody sets it.
func Now() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // fails only for clocks that there aren't
	return time.Duration(now.Nano())
}

// Packet is what one read gives. Its descriptors are the receiver's, and closed on exec.
type Packet struct {
	Data  []byte
	Files []int
}

// Close closes the descriptors.
func (p Packet) Close() {
	for _, fd := range p.Files {
		_ = unix.Close(fd)
	}
}

// Receive reads one packet. io.EOF means that the other side has hung up. No descriptor is left open after an error.
func Receive(conn *net.UnixConn) (Packet, error) {
	data, control := make([]byte, MaxPacket), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, controlN, flags, _, err := conn.ReadMsgUnix(data, control)
	if errors.Is(err, io.EOF) && controlN > 0 {
		err = nil // an empty packet looks like the end, but the descriptors in it have to be closed
	}
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Data: data[:n]}
	p.Files, err = descriptors(control[:controlN])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = ErrTooLarge
	}
	if err != nil {
		p.Close()
		return Packet{}, err
	}
	return p, nil
}

func descriptors(control []byte) (all []int, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	for _, message := range messages {
		if fds, err := unix.ParseUnixRights(&message); err == nil { // else not descriptors
			all = append(all, fds...)
		}
	}
	return all, nil
}

// Send writes one packet. The descriptors stay the caller's.
func Send(conn *net.UnixConn, data []byte, files ...int) error {
	if len(files) == 0 {
		_, err := conn.Write(data)
		return err
	}
	_, _, err := conn.WriteMsgUnix(data, unix.UnixRights(files...), nil)
	return err
}

// Pack lists what is given, and its descriptors in the same order, which stay there.
func Pack(given socket.Given) (list []*zds.Listener, files []int) {
	for _, port := range given.Ports() {
		list = append(list, &zds.Listener{Address: port.Addr.String(), Udp: port.UDP})
		files = append(files, given[port])
	}
	return list, files
}

// Unpack joins a list with its descriptors, whatever they may be. It takes them over: after an error they are closed.
func Unpack(list []*zds.Listener, files []int) (socket.Given, error) {
	given, err := unpack(list, files)
	if err != nil {
		Packet{Files: files}.Close()
	}
	return given, err
}

func unpack(list []*zds.Listener, files []int) (socket.Given, error) {
	if len(list) != len(files) {
		return nil, fmt.Errorf("%d listeners are listed for %d descriptors", len(list), len(files))
	}
	if len(list) > MaxListeners {
		return nil, fmt.Errorf("%d listeners are more than %d", len(list), MaxListeners)
	}
	given := socket.Given{}
	for i, listener := range list {
		addr, err := netip.ParseAddrPort(listener.GetAddress())
		if err != nil || addr.Port() == 0 {
			return nil, fmt.Errorf("no listener's address: %q", listener.GetAddress())
		}
		port := socket.Port{Addr: addr, UDP: listener.GetUdp()}
		if _, twice := given[port]; twice {
			return nil, fmt.Errorf("two listeners on %s", port)
		}
		given[port] = files[i]
	}
	return given, nil
}
