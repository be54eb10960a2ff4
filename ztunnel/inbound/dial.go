package inbound

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
)

// Ports that no client of the pod uses by itself: those below the kernel's default range for outgoing connections.
const (
	lowestPort  = 1024
	highestPort = 10239
	portTries   = 8
)

// dialFor connects to the application of an admitted arrival, as if the client did.
//
// The dialled connection has the client's address on it, as the arrival in plain text has. Were the ports alike, too, the
// pod would have two connections with the same four numbers, so it takes a port from where clients don't. A tunnel's
// arrival is to port 15008, so it can't clash, and the kernel chooses best.
func (h *Handler) dialFor(f *flow) (*net.TCPConn, error) {
	source := f.client.Addr()
	if source == f.target.dial.Addr() || f.target.dial.Addr().IsLoopback() {
		return h.dial(f, netip.AddrPort{})
	}
	if f.tunnel {
		return h.dial(f, netip.AddrPortFrom(source, 0))
	}
	for range portTries {
		port := lowestPort + rand.N(uint16(highestPort-lowestPort+1))
		conn, err := h.dial(f, netip.AddrPortFrom(source, port))
		if !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EADDRINUSE) {
			return conn, err
		}
	}
	return h.dial(f, netip.AddrPortFrom(source, 0))
}

func (h *Handler) dial(f *flow, source netip.AddrPort) (*net.TCPConn, error) {
	conn, err := h.cfg.Dial(f.ctx, f.target.dial, source)
	if err != nil {
		if reason := f.entry.Reason(); reason != nil {
			return nil, reason
		}
		return nil, fmt.Errorf("connect to the application: %w", err)
	}
	return conn, nil
}
