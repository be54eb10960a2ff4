// Package capture takes the connections that a pod's redirection sends to ztunnel's listeners inside the pod, and keeps
// track of them.
package capture

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
)

// The ports inside every pod, which redirection aims at.
const (
	OutboundPort = 15001
	InboundPort  = 15006 // arrivals in plain text
	HBONEPort    = 15008
)

// SOCKSPort is where pods are served SOCKS5, if at all. No redirection aims at it.
const SOCKSPort = 15080

// Illegal tells that a port is one of ztunnel's own: a connection that asks for it would come back to us.
func Illegal(port uint16, socks bool) bool {
	return port == OutboundPort || port == InboundPort || port == HBONEPort || (socks && port == SOCKSPort)
}

// Client is where a captured connection comes from.
type Client struct{ netip.AddrPort }

// OriginalDst is what the client of a captured connection dialled.
type OriginalDst struct{ netip.AddrPort }

// Conn is a captured connection: a non-blocking socket that belongs to whoever gets it, on a worker.
type Conn struct {
	Worker   *worker.Worker
	FD       int
	Client   Client
	Original OriginalDst

	accepted *acceptor // nil for a connection that came another way
}

// Refuse closes the connection with a reset: a clean end would look like an empty answer.
func (c Conn) Refuse() {
	c.Worker.Reset(c.FD)
	c.Decided()
}

// Decided tells that nothing is waited for any more before the connection is relayed. Call it once, or Refuse.
func (c Conn) Decided() {
	if c.accepted != nil {
		c.accepted.decided()
	}
}

// Config says how to listen and who takes the connections. The functions are called on the worker that has accepted, and
// must not wait.
type Config struct {
	Workers []*worker.Worker
	Netns   *socket.Netns // of the pod
	// Listener is how all listeners are opened; its address is the wildcard, its port is filled in.
	Listener socket.ListenConfig
	// Outbound and Inbound decide about a connection; they end with Decided or Refuse.
	Outbound, Inbound func(Conn)
	// HBONE takes a tunnel's connection over.
	HBONE func(w *worker.Worker, fd int, local, remote netip.AddrPort)
	Log   *slog.Logger
}

// Listeners are the open listeners of a pod.
type Listeners struct {
	cfg  Config
	open []*listener
	end  func()
}

// listener is one port of a pod, watched by all workers.
type listener struct {
	fd        int
	port      uint16
	acceptors []*acceptor
}

// Open opens all listeners, so that capture takes effect, or none. Functions that are nil have no listener.
func Open(cfg Config) (*Listeners, error) {
	l := &Listeners{cfg: cfg}
	l.end = sync.OnceFunc(l.closeAll)
	for _, role := range []struct {
		port   uint16
		decide func(Conn)
		wanted bool
	}{
		{OutboundPort, cfg.Outbound, cfg.Outbound != nil},
		{InboundPort, cfg.Inbound, cfg.Inbound != nil},
		{HBONEPort, nil, cfg.HBONE != nil},
	} {
		if !role.wanted {
			continue
		}
		if err := l.listen(role.port, role.decide); err != nil {
			l.Close()
			return nil, err
		}
	}
	for _, open := range l.open {
		for _, a := range open.acceptors {
			_ = a.worker.Post(a.resume) // fails only when ztunnel ends
		}
	}
	return l, nil
}

func (l *Listeners) listen(port uint16, decide func(Conn)) error {
	cfg := l.cfg.Listener
	cfg.Addr = netip.AddrPortFrom(cfg.Addr.Addr(), port)
	if port == HBONEPort {
		cfg.KeepAlive = net.KeepAliveConfig{Idle: -1} // tunnels have pings
	}
	fd, err := l.cfg.Netns.ListenFD(cfg)
	if err != nil {
		return err
	}
	open := &listener{fd: fd, port: port}
	for _, w := range l.cfg.Workers {
		open.acceptors = append(open.acceptors, newAcceptor(l, open, w, decide))
	}
	l.open = append(l.open, open)
	return nil
}

// Share adds duplicates of the listening sockets to those that another process may take over.
func (l *Listeners) Share(with socket.Given) error {
	for _, open := range l.open {
		if err := with.Share(open.fd, false); err != nil {
			return err
		}
	}
	return nil
}

// restTime bounds Drain.
const restTime = time.Second

// Drain takes the connections that have arrived but weren't accepted yet, then closes. It takes a second at most, and
// ends earlier when ctx does.
func (l *Listeners) Drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, restTime)
	defer cancel()
	for _, open := range l.open {
		for _, a := range open.acceptors {
			if a.worker.Post(a.drain) != nil {
				close(a.rested)
			}
		}
	}
	for _, open := range l.open {
		for _, a := range open.acceptors {
			select {
			case <-a.rested:
			case <-ctx.Done():
			}
		}
	}
	l.Close()
}

// Close stops accepting at once. Connections that were handed on are not touched.
func (l *Listeners) Close() { l.end() }

// Wait returns when every connection that was accepted is decided, or ctx ends. Call it after Close or Drain.
func (l *Listeners) Wait(ctx context.Context) {
	for _, open := range l.open {
		for _, a := range open.acceptors {
			select {
			case <-a.idle:
			case <-ctx.Done():
			}
		}
	}
}

func (l *Listeners) closeAll() {
	for _, open := range l.open {
		for _, a := range open.acceptors {
			_ = a.worker.Do(a.close)
		}
		_ = unix.Close(open.fd)
	}
}
