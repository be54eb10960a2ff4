package hbone

import (
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// Many connections at once that end in every way leave nothing behind: no stream, no byte of a window, no goroutine.
func TestStress(t *testing.T) {
	b := newBed(t)
	var apps sync.WaitGroup
	b.onConnect(func(in *Incoming) {
		if in.Request.Authority.Port() == 1 {
			in.Refuse(401)
			return
		}
		app, inner := tcpPair(t)
		s, err := in.Accept(Baggage{})
		if err != nil {
			_ = inner.Close()
			return
		}
		joinHere(s, inner, make(chan relay.Result, 2))
		apps.Go(func() { stressedApp(app, in.Request.Authority.Port()) })
	})
	var workers sync.WaitGroup
	for worker := range 32 {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 15 {
				b.stress(t, r)
			}
		})
	}
	workers.Wait()
	b.onConnect(func(in *Incoming) { in.Refuse(503) }) // what is left of clients that gave up
	b.onFar(func() {})                                 // whatever was accepted before is among the apps
	apps.Wait()
	for _, tunnel := range append(b.allTunnels(), clientTunnel(b)) {
		checkUnread(t, tunnel)
	}
}

// stressedApp is the application at the server's side.
func stressedApp(app *net.TCPConn, port uint16) {
	switch port {
	case 2:
		_, _ = app.Read(make([]byte, 100))
		_ = app.SetLinger(0)
	case 3:
		_, _ = app.Read(make([]byte, 100)) // closes with unread bytes
	default:
		_, _ = io.Copy(app, app)
		_ = app.CloseWrite()
	}
	_ = app.Close()
}

// stress makes one connection and ends it in some way.
func (b *bed) stress(t *testing.T, r *rand.Rand) {
	request := b.request()
	request.Authority, _ = ParseAuthority([]string{"a:1", "a:2", "a:3", "a:4", "a:4", "a:4"}[r.IntN(6)])
	s, err := connect(b.pool, b.target(), request)
	if request.Authority.Port() == 1 {
		var status *StatusError
		if !errors.As(err, &status) {
			t.Errorf("Connect = %v, want a refusal", err)
		}
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	app, inner := tcpPair(t)
	session, done := join(s, inner)
	content := noise(1+r.IntN(300_000), r.Uint64())
	way := r.IntN(4)
	var writer sync.WaitGroup
	writer.Go(func() {
		_, _ = app.Write(content)
		_ = app.CloseWrite()
	})
	switch {
	case way == 0:
		session.Cut(errors.New("stress"))
	case way == 1:
		_, _ = app.Read(make([]byte, 10))
		_ = app.SetLinger(0)
		_ = app.Close()
	default:
		got, err := io.ReadAll(app)
		if request.Authority.Port() == 4 && (err != nil || string(got) != string(content)) {
			t.Errorf("echoed %d bytes, %v, want %d", len(got), err, len(content))
		}
	}
	writer.Wait()
	_ = app.Close()
	result(t, done)
}

// A refusal with a body, and data sent before a refusal, cost the window nothing.
func TestRefusalsGiveTheWindowBack(t *testing.T) {
	b := newBed(t)
	target := b.target()
	target.Addr = b.rawServer(func(p *rawPeer) {
		for _, end := range []bool{true, false} {
			id := p.request()
			p.headers(id, false, ":status", "503")
			_ = p.WriteData(id, end, make([]byte, 5000))
		}
	})
	for range 2 {
		_, err := connect(b.pool, target, b.request())
		var status *StatusError
		if !errors.As(err, &status) {
			t.Fatalf("Connect = %v", err)
		}
	}
	checkUnread(t, clientTunnel(b))

	var refuse func()
	b.onConnect(func(in *Incoming) { refuse = func() { in.Refuse(401) } })
	p := b.rawClient()
	p.headers(1, false, ":method", "CONNECT", ":authority", "a:1")
	_ = p.WriteData(1, false, make([]byte, 5000))
	_ = p.WritePing(false, [8]byte{1})
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if ping, ok := f.(*http2.PingFrame); ok && ping.IsAck() {
			break // so the data has arrived
		}
	}
	b.onFar(func() { refuse() })
	_, _ = p.next()
	_ = p.WriteData(1, true, make([]byte, 5000))
	checkUnread(t, b.serverTunnel())
}

// checkUnread waits until a tunnel has no streams and no unread bytes.
func checkUnread(t *testing.T, tunnel *tunnel) {
	t.Helper()
	eventually(t, "streams to go and all bytes to be given back", func() (clean bool) {
		_ = tunnel.loop.Do(func() { clean = tunnel.core.Unread() == 0 && tunnel.core.Active() == 0 && len(tunnel.streams) == 0 })
		return clean
	})
}

// Peers that take fewer streams than we would open get as many tunnels as that needs.
func TestPeersWithASmallLimit(t *testing.T) {
	b := newBed(t)
	b.onFar(func() { b.srv.cfg.MaxStreams = 5 })
	b.onConnect(accepting)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := connect(b.pool, b.target(), b.request()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := b.tunnels(); n < 4 {
		t.Errorf("%d tunnels for 20 connections", n)
	}
}

// A peer that ends before it has sent its settings is told apart from one that refused our certificate.
func TestPeerThatIsNoHTTP2(t *testing.T) {
	for name, script := range map[string]func(*tls.Conn){
		"closes":          func(c *tls.Conn) {},
		"speaks HTTP/1.1": func(c *tls.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			l := listen(t)
			b.accepts.Go(func() {
				conn, err := l.AcceptTCP()
				if err != nil {
					return
				}
				secured := tls.Server(conn, mtls.Policy{}.ServerConfig(b.server))
				_, _ = secured.Read(make([]byte, 1))
				script(secured)
				_ = secured.Close()
			})
			target := b.target()
			target.Addr = l.Addr().(*net.TCPAddr).AddrPort()
			_, err := connect(b.pool, target, b.request())
			var dial *DialError
			if !errors.As(err, &dial) || dial.Stage != StageHTTP2 {
				t.Errorf("Connect = %v, want stage %q", err, StageHTTP2)
			}
		})
	}
}
