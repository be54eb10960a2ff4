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

	"github.com/tulle-mesh/tulle/mesh/socket"
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

// Conn is a captured connection. Whoever gets it closes it.
type Conn struct {
	*net.TCPConn
	Client   Client
	Original OriginalDst
}

// Refuse closes the connection with a reset: a clean end would look like an empty answer.
func (c Conn) Refuse() {
	_ = c.SetLinger(0) // fails only on a dead connection
	c.Close()
}

// Config says how to listen and who takes the connections.
type Config struct {
	Netns *socket.Netns // of the pod
	// Listener is how all listeners are opened; its address is the wildcard, its port is filled in.
	Listener socket.ListenConfig
	// Outbound and Inbound decide about a connection in a goroutine of its own, and end when a relay has taken it over.
	Outbound, Inbound func(Conn)
	// HBONE takes a tunnel's connection over and returns at once.
	HBONE func(*net.TCPConn)
	Log   *slog.Logger
}

// Listeners are the open listeners of a pod.
type Listeners struct {
	cfg       Config
	open      []*listener
	accepting sync.WaitGroup
	deciding  sync.WaitGroup
	closed    chan struct{} // nothing waits for room any more
	close     func()
}

// Open opens all listeners, so that capture takes effect, or none. Functions that are nil have no listener.
func Open(cfg Config) (*Listeners, error) {
	l := &Listeners{cfg: cfg, closed: make(chan struct{})}
	l.close = sync.OnceFunc(l.closeAll)
	for _, role := range []struct {
		port   uint16
		tunnel func(*net.TCPConn)
		decide func(Conn)
	}{
		{OutboundPort, nil, cfg.Outbound},
		{InboundPort, nil, cfg.Inbound},
		{HBONEPort, cfg.HBONE, nil},
	} {
		if role.tunnel == nil && role.decide == nil {
			continue
		}
		socket, err := l.listen(role.port)
		if err != nil {
			l.close()
			return nil, err
		}
		l.open = append(l.open, &listener{TCPListener: socket, owner: l, tunnel: role.tunnel, decide: role.decide, slots: make(chan struct{}, maxDeciding)})
	}
	for _, open := range l.open {
		l.accepting.Go(open.accept)
	}
	return l, nil
}

func (l *Listeners) listen(port uint16) (*net.TCPListener, error) {
	cfg := l.cfg.Listener
	cfg.Addr = netip.AddrPortFrom(cfg.Addr.Addr(), port)
	if port == HBONEPort {
		cfg.KeepAlive = net.KeepAliveConfig{Idle: -1} // tunnels have pings
	}
	return l.cfg.Netns.Listen(cfg)
}

// restTime bounds Drain.
const restTime = time.Second

// Drain takes the connections that have arrived but weren't accepted yet, then closes. It takes a second at most, and
// ends earlier when ctx does.
func (l *Listeners) Drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, restTime)
	defer cancel()
	defer context.AfterFunc(ctx, l.close)()
	for _, open := range l.open {
		_ = open.SetDeadline(time.Now()) // fails only on a closed listener
	}
	l.accepting.Wait()
	l.close()
}

// Close stops accepting at once. Connections that were handed on are not touched; one that waits for room is reset.
func (l *Listeners) Close() {
	l.close()
	l.accepting.Wait()
}

// Wait returns when every decision has ended. Call it after Close or Drain.
func (l *Listeners) Wait() { l.deciding.Wait() }

func (l *Listeners) closeAll() {
	close(l.closed)
	for _, open := range l.open {
		open.Close()
	}
}
