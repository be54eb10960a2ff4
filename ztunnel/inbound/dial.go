package inbound

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"syscall"
)

// Ports that no client of the pod uses by itself: those below the kernel's default range for outgoing connections.
const (
	lowestPort  = 1024
	highestPort = 32767
	portTries   = 8
)

// dialFor connects to the application of an admitted arrival, as if the client did.
//
// The dialled connection has the client's address on it. Were its port one that the client may take, too, the pod could have two
// connections with the same four numbers: with an arrival in plain text itself, or with one that the client makes while the pod
// leaves the mesh, whose packets would be taken for the proxy's: by connection tracking, and without that by the app's socket. So it
// takes a port from where clients don't. The kernel's choice when connecting (IP_BIND_ADDRESS_NO_PORT) is from the pod's own range,
// which is mostly the clients' as well, and IP_LOCAL_PORT_RANGE can only narrow that; it costs the same (docs/performance.md).
func (f *flow) dialFor() {
	source := f.client.Addr()
	if source == f.target.dial.Addr() || f.target.dial.Addr().IsLoopback() {
		f.dial(netip.AddrPort{})
		return
	}
	for range portTries {
		port := lowestPort + rand.N(uint16(highestPort-lowestPort+1))
		err := f.tryDial(netip.AddrPortFrom(source, port))
		if !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EADDRINUSE) {
			f.dialled(err)
			return
		}
	}
	f.dial(netip.AddrPortFrom(source, 0))
}

func (f *flow) dial(source netip.AddrPort) { f.dialled(f.tryDial(source)) }

// tryDial begins to dial. An error is one that is known at once.
func (f *flow) tryDial(source netip.AddrPort) error {
	dialling, err := f.handler.cfg.Dial(f.worker, f.target.dial, source, func(fd int, err error) {
		f.stop = nil
		if err != nil {
			f.dialled(err)
			return
		}
		f.connected(fd)
	})
	if err == nil {
		f.stop = dialling.Cancel
	}
	return err
}

// dialled ends the flow if its dial has failed.
func (f *flow) dialled(err error) {
	if err != nil {
		f.fail(fmt.Errorf("connect to the application: %w", err))
	}
}
