package apiserver

import (
	"io"
	"net"
	"sync"
)

// Link is a way to the API server that can be cut: a proxy of TCP connections.
type Link struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	lock    sync.Mutex // guards what follows
	conns   map[net.Conn]struct{}
	blocked bool
}

// Link makes a way to the API server, which is there until Stop.
func (s *Server) Link() (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{listener: listener, target: s.apiAddr, conns: make(map[net.Conn]struct{})}
	l.running.Go(l.serve)
	s.lock.Lock()
	defer s.lock.Unlock()
	s.links = append(s.links, l)
	return l, nil
}

// Addr is where it listens.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Cut resets all connections; new ones are served.
func (l *Link) Cut() {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.cutLocked()
}

// Block cuts all connections, and resets new ones until Unblock.
func (l *Link) Block() {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.blocked = true
	l.cutLocked()
}

// Unblock serves again.
func (l *Link) Unblock() {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.blocked = false
}

func (l *Link) cutLocked() {
	for conn := range l.conns {
		reset(conn)
	}
}

// reset closes without the courtesies.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

func (l *Link) close() {
	l.listener.Close()
	l.Block()
	l.running.Wait()
}

func (l *Link) serve() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.running.Go(func() { l.relay(conn) })
	}
}

func (l *Link) relay(client net.Conn) {
	defer client.Close()
	if !l.enter(client) {
		reset(client)
		return
	}
	defer l.leave(client)
	server, err := net.Dial("tcp", l.target)
	if err != nil {
		reset(client)
		return
	}
	defer server.Close()
	if !l.enter(server) {
		return
	}
	defer l.leave(server)
	var directions sync.WaitGroup
	for _, to := range [][2]net.Conn{{server, client}, {client, server}} {
		directions.Go(func() {
			io.Copy(to[0], to[1])
			// TLS says itself when it ends, so one direction's end is both's.
			client.Close()
			server.Close()
		})
	}
	directions.Wait()
}

func (l *Link) enter(conn net.Conn) bool {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.blocked {
		return false
	}
	l.conns[conn] = struct{}{}
	return true
}

func (l *Link) leave(conn net.Conn) {
	l.lock.Lock()
	defer l.lock.Unlock()
	delete(l.conns, conn)
}
