package daemon

import (
	"container/list"
	"context"
	"net"
	"slices"
	"sync"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// guests bounds a listener's connections. When there are too many, the one goes that was first to come of those on which nobody was proven
// yet, so that who only holds connections open keeps no proxy out; who opens 8,192 faster than a proxy proves itself still does. Without any,
// it is the first of those that aren't of nodes' proxies, so that whoever has many pods keeps no node out. Of what one party has proven
// itself on, the oldest goes as well when it has too many. Where all are nodes' proxies, those who come have to wait.
type guests struct {
	net.Listener
	most int

	lock    sync.Mutex
	open    map[ends]*guest
	queues  [trusted]list.List // of each other standing, the *guests in the order they got it
	proven  map[party][]*guest // in the order they were
	changed *sync.Cond         // there may be room, or the listener is closed
	closed  bool
}

// standing is how far a guest is trusted.
type standing int

const (
	unproven standing = iota
	proven            // whoever it is
	trusted           // a node's proxy
)

// ends tell a connection from all others.
type ends struct{ local, remote string }

// guest is an open connection.
type guest struct {
	net.Conn
	host     *guests
	standing standing
	place    *list.Element // in the queue of its standing; nil if it is trusted
	party    party         // who was proven on it; the zero value before
}

// party is what callers are, as far as they can be told apart: a pod, or an account at an address.
type party struct {
	ca.Caller
	address string // empty for a pod
}

func partyOf(ctx context.Context, caller ca.Caller) party {
	return party{caller, unboundAddress(ctx, caller)}
}

// unboundAddress is the machine that called, if the token is bound to no pod: whoever has such a token may have any number of them.
func unboundAddress(ctx context.Context, caller ca.Caller) string {
	if caller.Pod != "" {
		return ""
	}
	return ca.AddressOf(ctx)
}

// maxProven is how many connections a party may be proven on. A proxy has two or three, and some that it has left and that aren't known to be dead.
const maxProven = 16

func receive(l net.Listener, most int) *guests {
	g := &guests{Listener: l, most: most, open: make(map[ends]*guest), proven: make(map[party][]*guest)}
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
		if first := g.first(); first != nil {
			g.send(first)
			continue
		}
		g.changed.Wait()
	}
	if g.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	at := between(conn.LocalAddr(), conn.RemoteAddr())
	if was := g.open[at]; was != nil {
		g.forget(was) // it was reset, which nobody has noticed yet
	}
	one := &guest{Conn: conn, host: g}
	one.place = g.queues[unproven].PushBack(one)
	g.open[at] = one
	return one, nil
}

// first is who has to go first; nil if nobody has.
func (g *guests) first() *guest {
	for i := range g.queues {
		if front := g.queues[i].Front(); front != nil {
			return front.Value.(*guest)
		}
	}
	return nil
}

// send closes a connection that has to go. The lock is held.
func (g *guests) send(one *guest) {
	g.forget(one)
	go one.Conn.Close() // which may take as long as TLS waits to say so
}

// Close implements net.Listener.
func (g *guests) Close() error {
	g.lock.Lock()
	g.closed = true
	g.changed.Broadcast()
	g.lock.Unlock()
	return g.Listener.Close()
}

// prove says who was proven on the connection between two ends, and whether it is trusted.
func (g *guests) prove(local, remote net.Addr, who party, as standing) {
	g.lock.Lock()
	defer g.lock.Unlock()
	one := g.open[between(local, remote)]
	if one == nil || one.standing != unproven {
		return
	}
	g.queues[unproven].Remove(one.place)
	one.standing, one.place = as, nil
	if as != trusted {
		one.place = g.queues[as].PushBack(one)
	}
	one.party = who
	g.proven[who] = append(g.proven[who], one)
	if all := g.proven[who]; len(all) > maxProven {
		g.send(all[0])
	}
}

// forget makes a connection's room free. The lock is held.
func (g *guests) forget(one *guest) {
	at := between(one.LocalAddr(), one.RemoteAddr())
	if g.open[at] != one {
		return // it had to go before
	}
	delete(g.open, at)
	if one.place != nil {
		g.queues[one.standing].Remove(one.place)
	}
	if of := g.proven[one.party]; len(of) > 0 {
		if of = slices.DeleteFunc(slices.Clone(of), func(other *guest) bool { return other == one }); len(of) > 0 {
			g.proven[one.party] = of
		} else {
			delete(g.proven, one.party)
		}
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
