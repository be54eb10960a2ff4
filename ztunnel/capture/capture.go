// Package capture takes the connections that a pod's redirection sends to ztunnel's listeners inside the pod, and keeps
// track of them.
package capture

import (
	"errors"
	"fmt"
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

// maxDeciding bounds the connections of a pod that were accepted but aren't relayed yet; more wait in the backlog.
const maxDeciding = 4096

// Illegal tells that a port is one of ztunnel's own: a connection that asks for it would come back to us.
func Illegal(port uint16) bool {
	return port == OutboundPort || port == InboundPort || port == HBONEPort
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
	open      []*net.TCPListener
	accepting sync.WaitGroup
	deciding  sync.WaitGroup
	slots     chan struct{} // one per decision
}

// Open opens all listeners, so that capture takes effect, or none. Functions that are nil have no listener.
func Open(cfg Config) (*Listeners, error) {
	l := &Listeners{cfg: cfg, slots: make(chan struct{}, maxDeciding)}
	var handlers []func(*net.TCPConn)
	for _, role := range []struct {
		port   uint16
		wanted bool
		handle func(*net.TCPConn)
	}{
		{OutboundPort, cfg.Outbound != nil, func(conn *net.TCPConn) { l.decide(conn, cfg.Outbound) }},
		{InboundPort, cfg.Inbound != nil, func(conn *net.TCPConn) { l.decide(conn, cfg.Inbound) }},
		{HBONEPort, cfg.HBONE != nil, cfg.HBONE},
	} {
		if !role.wanted {
			continue
		}
		listener, err := l.listen(role.port)
		if err != nil {
			l.closeAll()
			return nil, err
		}
		l.open = append(l.open, listener)
		handlers = append(handlers, role.handle)
	}
	for i, listener := range l.open {
		l.accepting.Go(func() { l.accept(listener, handlers[i]) })
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

// accept hands connections on until the listener is closed.
func (l *Listeners) accept(listener *net.TCPListener, handle func(*net.TCPConn)) {
	for {
		conn, err := listener.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors or memory: what is open may end
			l.cfg.Log.Error("accept", "listener", listener.Addr().String(), "err", err)
			time.Sleep(50 * time.Millisecond)
		default:
			handle(conn)
		}
	}
}

// decide begins a decision as soon as there is room for one.
func (l *Listeners) decide(conn *net.TCPConn, handle func(Conn)) {
	l.slots <- struct{}{}
	l.deciding.Go(func() {
		defer func() { <-l.slots }()
		c, err := describe(conn)
		if err != nil {
			l.cfg.Log.Warn("connection without addresses", "err", err)
			conn.Close()
			return
		}
		handle(c)
	})
}

func describe(conn *net.TCPConn) (Conn, error) {
	client := socket.Unmap(conn.RemoteAddr())
	if !client.IsValid() {
		return Conn{}, fmt.Errorf("client address %v", conn.RemoteAddr())
	}
	original, err := socket.OriginalDst(conn)
	if err != nil {
		return Conn{}, err
	}
	return Conn{TCPConn: conn, Client: Client{client}, Original: OriginalDst{original}}, nil
}

// Close stops accepting. Connections that were accepted are not touched.
func (l *Listeners) Close() {
	l.closeAll()
	l.accepting.Wait()
}

// Wait returns when every decision has ended. Call it after Close.
func (l *Listeners) Wait() { l.deciding.Wait() }

func (l *Listeners) closeAll() {
	for _, listener := range l.open {
		listener.Close()
	}
}
