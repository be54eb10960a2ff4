package capture

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// maxDeciding bounds, for each listener, the connections that were accepted but aren't relayed yet; more wait in the
// backlog. It is not shared: whoever floods a pod from outside must not stop what the pod sends.
const maxDeciding = 4096

// quietTime without an arrival tells a draining listener that it has accepted everything which the kernel held ready.
const quietTime = 10 * time.Millisecond

// listener is one port of a pod.
type listener struct {
	*net.TCPListener
	owner *Listeners
	// Either tunnel takes a connection over and returns at once, or decide does it in a goroutine with one of the slots.
	tunnel func(*net.TCPConn)
	decide func(Conn)
	slots  chan struct{}
}

// accept hands connections on until the listener drains or is closed.
func (l *listener) accept() {
	for {
		conn, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // only Drain sets one
			l.acceptRest()
			return
		case err != nil: // out of descriptors or memory: what is open may end
			l.owner.cfg.Log.Error("accept", "listener", l.Addr().String(), "err", err)
			l.pause()
		default:
			l.handle(conn)
		}
	}
}

// acceptRest hands on what has arrived before the listener drains. Only a time without arrivals tells that it is all.
func (l *listener) acceptRest() {
	for {
		_ = l.SetDeadline(time.Now().Add(quietTime)) // fails only on a closed listener, as does the next line
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		l.handle(conn)
	}
}

func (l *listener) pause() {
	select {
	case <-time.After(50 * time.Millisecond):
	case <-l.owner.closed:
	}
}

// handle passes a connection on as soon as there is room for it, or resets it when the listeners are closed before.
func (l *listener) handle(conn *net.TCPConn) {
	if l.tunnel != nil {
		l.tunnel(conn)
		return
	}
	select {
	case l.slots <- struct{}{}:
	case <-l.owner.closed:
		Conn{TCPConn: conn}.Refuse()
		return
	}
	l.owner.deciding.Go(func() {
		defer func() { <-l.slots }()
		c, err := describe(conn)
		if err != nil {
			l.owner.cfg.Log.Warn("connection without addresses", "err", err)
			conn.Close()
			return
		}
		l.decide(c)
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
