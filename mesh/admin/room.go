package admin

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// Room bounds the connections of an HTTP server. Where there is none for one more, it makes room: nobody who only holds connections open
// keeps others out, such as a kubelet that asks whether the program lives.
type Room struct {
	most int

	lock   sync.Mutex
	guests map[net.Conn]guest
}

// guest is a connection that is held.
type guest struct {
	state http.ConnState
	since time.Time
}

// NewRoom bounds a server that doesn't serve yet, and whose ConnState isn't set.
func NewRoom(server *http.Server, most int) *Room {
	r := &Room{most: most, guests: make(map[net.Conn]guest)}
	server.ConnState = r.note
	return r
}

// Listen returns a listener for the server to serve. Its connections must reach the server as they are: TLS comes below.
func (r *Room) Listen(l net.Listener) net.Listener { return entrance{l, r} }

type entrance struct {
	net.Listener
	room *Room
}

func (e entrance) Accept() (net.Conn, error) {
	conn, err := e.Listener.Accept()
	if err == nil {
		e.room.admit(conn)
	}
	return conn, err
}

// admit makes room for a connection.
func (r *Room) admit(conn net.Conn) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if len(r.guests) >= r.most {
		worst := r.worst()
		delete(r.guests, worst)
		go worst.Close() // which may take as long as TLS waits to say so
	}
	r.guests[conn] = guest{http.StateNew, time.Now()}
}

// worst is the connection that has asked nothing for the longest time, or else whose request has lasted longest.
func (r *Room) worst() (worst net.Conn) {
	var longest guest
	for conn, g := range r.guests {
		busy, least := g.state == http.StateActive, longest.state == http.StateActive
		if worst == nil || !busy && least || busy == least && g.since.Before(longest.since) {
			worst, longest = conn, g
		}
	}
	return worst
}

// note follows what the server does with a connection.
func (r *Room) note(conn net.Conn, state http.ConnState) {
	r.lock.Lock()
	defer r.lock.Unlock()
	_, held := r.guests[conn]
	switch {
	case state == http.StateClosed || state == http.StateHijacked:
		delete(r.guests, conn)
	case held: // else it had to go
		r.guests[conn] = guest{state, time.Now()}
	}
}
