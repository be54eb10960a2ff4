// Package relay is the floor that the benchmark compares proxies with: two programs in the place of two ztunnels, with the
// same ports, marks and redirection, but nothing of a mesh: no HTTP/2, no identity, no policy, no metrics.
//
// The one in the client's pod takes captured connections and passes each on, by a connection of its own, to the one in the
// server's pod, which dials the application from the client's address. Mode Plain moves bytes by splice, mode TLS encrypts
// them with crypto/tls.
package relay

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Ports in the pods, which are ztunnel's.
const (
	portOutbound = 15001
	portTunnel   = 15008
)

// Mode says what is between the two relays.
type Mode string

// The modes.
const (
	Plain Mode = "plain"
	TLS   Mode = "tls"
)

// Relay is one of the two programs. It runs in its pod's network namespace.
type Relay struct {
	Mode Mode
	// Credential is the PEM file of both ends' certificate and key; for TLS only.
	Credential string

	secret *secret // nil in mode Plain
	here   *socket.Netns
}

// headerLimit is how long the other relay may take to say where a connection goes.
const headerLimit = 10 * time.Second

// Serve takes the pod's outgoing connections, and those of other relays to the pod, until one of the listeners fails.
func (r *Relay) Serve() error {
	if r.Mode == TLS {
		var err error
		if r.secret, err = loadSecret(r.Credential); err != nil {
			return err
		}
		if err := r.secret.warmUp(); err != nil {
			return err
		}
	}
	ended := make(chan error, 2)
	for port, serve := range map[uint16]func(*net.TCPConn) error{portOutbound: r.outbound, portTunnel: r.inbound} {
		listener, err := r.here.Listen(socket.ListenConfig{
			Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port), Mark: socket.Mark, ReusePort: true, KeepAlive: noProbes,
		})
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		go func() { ended <- accept(listener, serve) }()
	}
	return <-ended
}

var noProbes = net.KeepAliveConfig{Idle: -1}

func accept(listener *net.TCPListener, serve func(*net.TCPConn) error) error {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		go func() {
			defer conn.Close()
			if err := serve(conn); err != nil {
				slog.Warn("relay", "err", err)
			}
		}()
	}
}

func (r *Relay) dial(to netip.AddrPort, source netip.Addr) (*net.TCPConn, error) {
	return r.here.Dial(context.Background(), to, socket.DialConfig{Mark: socket.Mark, Source: source, KeepAlive: noProbes})
}

// outbound passes a captured connection on.
func (r *Relay) outbound(app *net.TCPConn) error {
	to, err := socket.OriginalDst(app)
	if err != nil {
		return err
	}
	peer, err := r.dial(netip.AddrPortFrom(to.Addr(), portTunnel), netip.Addr{})
	if err != nil {
		return err
	}
	defer peer.Close()
	header := binary.BigEndian.AppendUint16(nil, to.Port())
	if r.secret != nil {
		tunnel, err := r.secret.client(peer)
		if err != nil {
			return err
		}
		if _, err := tunnel.Write(header); err != nil {
			return err
		}
		return tunnel.join(app)
	}
	if _, err := peer.Write(header); err != nil {
		return err
	}
	return join(app, peer)
}

// inbound takes a connection of the other relay to its application.
func (r *Relay) inbound(peer *net.TCPConn) error {
	var from io.Reader = peer
	var tunnel *tunnel
	if r.secret != nil {
		var err error
		if tunnel, err = r.secret.server(peer); err != nil {
			return err
		}
		from = tunnel
	}
	app, err := r.dialApp(peer, from)
	if err != nil {
		return err
	}
	defer app.Close()
	if tunnel != nil {
		return tunnel.join(app)
	}
	return join(app, peer)
}

// dialApp reads where the connection goes and dials that, from the address that it comes from.
func (r *Relay) dialApp(peer *net.TCPConn, header io.Reader) (*net.TCPConn, error) {
	if err := peer.SetReadDeadline(time.Now().Add(headerLimit)); err != nil {
		return nil, err
	}
	var port [2]byte
	if _, err := io.ReadFull(header, port[:]); err != nil {
		return nil, fmt.Errorf("read where it goes: %w", err)
	}
	if err := peer.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	here, there := socket.Unmap(peer.LocalAddr()), socket.Unmap(peer.RemoteAddr())
	return r.dial(netip.AddrPortFrom(here.Addr(), binary.BigEndian.Uint16(port[:])), there.Addr())
}

// join moves bytes both ways until both have ended. io.Copy between two TCP connections is splice.
func join(a, b *net.TCPConn) error {
	there := make(chan error, 1)
	go func() { there <- move(b, a) }()
	err := move(a, b)
	if other := <-there; err == nil {
		err = other
	}
	return err
}

func move(to, from *net.TCPConn) error {
	_, err := io.Copy(to, from)
	to.CloseWrite()
	return err
}
