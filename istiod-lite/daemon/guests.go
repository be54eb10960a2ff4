package daemon

import (
	"container/list"
	"net"
	"sync"
)

// guests bounds a listener's connections. When there are too many, the one goes that was first to come of those on which nobody was proven
// yet, so that who only holds connections open keeps no proxy out. Where all are proven, those who come have to wait.
type guests struct {
	net.Listener
	most int

	lock     sync.Mutex
	open     map[ends]*guest
	unproven list.List  // of *guest, in the order they came
	changed  *sync.Cond // there may be room, or the listener is closed
	closed   bool
}

// ends tell a connection from all others.
type ends struct{ local, remote string }

// guest is an open connection.
type guest struct {
	net.Conn
	host     *guests
	unproven *list.Element // nil once somebody was proven on it
}

func receive(l net.Listener, most int) *guests {
	g := &guests{Listener: l, most: most, open: make(map[ends]*guest)}
	g.changed = sync.NewCond(&g.lock)
	return g
}

// Accept implements net.Listener.
func (g *guests) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g.lock.Lock()
	defer g.lock.Unlock()
	for len(g.open) >= g.most && !g.closed {
		if oldest := g.unproven.Front(); oldest != nil {
			sent := oldest.Value.(*guest)
			g.forget(sent)
			go sent.Conn.Close()
			continue
		}
		g.changed.Wait()
	}
	if g.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	one := &guest{Conn: conn, host: g}
	one.unproven = g.unproven.PushBack(one)
	g.open[between(conn.LocalAddr(), conn.RemoteAddr())] = one
	return one, nil
}

// Close implements net.Listener.
func (g *guests) Close() error {
	g.lock.Lock()
	g.closed = true
	g.changed.Broadcast()
	g.lock.Unlock()
	return g.Listener.Close()
}

// prove says that somebody was proven on the connection between two ends.
func (g *guests) prove(local, remote net.Addr) {
	g.lock.Lock()
	defer g.lock.Unlock()
	if one := g.open[between(local, remote)]; one != nil && one.unproven != nil {
		g.unproven.Remove(one.unproven)
		one.unproven = nil
	}
}

// forget makes a connection's room free. The lock is held.
func (g *guests) forget(one *guest) {
	at := between(one.LocalAddr(), one.RemoteAddr())
	if g.open[at] != one {
		return // it had to go before
	}
	delete(g.open, at)
	if one.unproven != nil {
		g.unproven.Remove(one.unproven)
	}
	g.changed.Signal()
}

// Close implements net.Conn.
func (one *guest) Close() error {
	one.host.lock.Lock()
	one.host.forget(one)
	one.host.lock.Unlock()
	return one.Conn.Close()
}

func between(local, remote net.Addr) ends { return ends{local.String(), remote.String()} }
