// Package socks lets applications of a pod ask for connections by SOCKS5 (RFC 1928), on the pod's loopback: CONNECT without
// authentication. A connection that was asked for is from then on like a captured one. It is for tests and tools.
package socks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	// maxNegotiating bounds the connections of a pod which haven't said yet what they want; more wait in the backlog.
	maxNegotiating = 256
	// timeout is how long a client may take for that, names included.
	timeout = 10 * time.Second
)

// Config says where to listen and who takes the connections. All fields are required.
type Config struct {
	Netns    *socket.Netns // of the pod
	Listener socket.ListenConfig
	// Resolve looks a name up as the pod would.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Handle takes a connection over that wants to the address; the client was told that it is connected.
	Handle func(conn *net.TCPConn, to netip.AddrPort)
	Log    *slog.Logger
}

// Server is a pod's SOCKS5 server.
type Server struct {
	cfg      Config
	listener *net.TCPListener
	ctx      context.Context // of negotiations
	cancel   context.CancelFunc
	slots    chan struct{}
	wait     sync.WaitGroup
}

// Open begins to serve.
func Open(cfg Config) (*Server, error) {
	l, err := cfg.Netns.Listen(cfg.Listener)
	if err != nil {
		return nil, fmt.Errorf("SOCKS5 server: %w", err)
	}
	s := &Server{cfg: cfg, listener: l, slots: make(chan struct{}, maxNegotiating)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wait.Go(s.accept)
	return s, nil
}

// Close takes nothing new and ends negotiations. Connections that were handed on are not touched.
func (s *Server) Close() {
	s.cancel()
	s.listener.Close()
}

// Wait returns when Handle has returned for every connection. Call it after Close.
func (s *Server) Wait() { s.wait.Wait() }

func (s *Server) accept() {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		conn, err := s.listener.AcceptTCP()
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.cfg.Log.Error("accept", "listener", s.listener.Addr().String(), "err", err)
			s.pause() // out of descriptors or memory: what is open may end
			continue
		}
		s.wait.Go(func() { s.serve(conn) })
	}
}

func (s *Server) pause() {
	select {
	case <-time.After(50 * time.Millisecond):
	case <-s.ctx.Done():
	}
}

// serve negotiates, gives its slot back and hands the connection on.
func (s *Server) serve(conn *net.TCPConn) {
	to, err := s.negotiate(conn)
	<-s.slots
	if err != nil {
		conn.Close()
		if s.ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.cfg.Log.Warn("SOCKS5 client refused", "client", conn.RemoteAddr().String(), "err", err)
		}
		return
	}
	s.cfg.Handle(conn, to)
}

// negotiate returns where the client wants to. It tells it of success before anything is tried, as Istio's ztunnel does:
// what fails afterwards is a reset.
func (s *Server) negotiate(conn *net.TCPConn) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	ended := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // fails only on a dead connection
	defer ended()
	if err := readGreeting(conn); err != nil {
		_, _ = conn.Write([]byte{version, noAcceptable}) // the client goes anyway
		return netip.AddrPort{}, err
	}
	if _, err := conn.Write([]byte{version, noAuth}); err != nil {
		return netip.AddrPort{}, err
	}
	to, err := s.destination(ctx, conn)
	if err != nil {
		if refused := (*codeError)(nil); errors.As(err, &refused) {
			_, _ = conn.Write(refused.code.reply()) // the client goes anyway
		}
		return netip.AddrPort{}, err
	}
	if _, err := conn.Write(succeeded.reply()); err != nil {
		return netip.AddrPort{}, err
	}
	if !ended() {
		return netip.AddrPort{}, ctx.Err()
	}
	return to, nil
}

// destination reads the request and looks a name up.
func (s *Server) destination(ctx context.Context, conn *net.TCPConn) (netip.AddrPort, error) {
	want, err := readRequest(conn)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if want.host == "" {
		return netip.AddrPortFrom(want.addr, want.port), nil
	}
	addrs, err := s.cfg.Resolve(ctx, want.host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no address")
	}
	if err != nil {
		return netip.AddrPort{}, &codeError{hostUnreachable, fmt.Sprintf("look up %q: %v", want.host, err)}
	}
	return netip.AddrPortFrom(addrs[rand.N(len(addrs))].Unmap(), want.port), nil
}
