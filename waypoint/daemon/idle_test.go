package daemon

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// idlers are many connections of one client that mostly wait. All but answered belongs to the client's loop.
type idlers struct {
	client   *byhand.Client
	all      []*idler
	err      error
	answered atomic.Int64
}

// idler is one of them: the user of its stream.
type idler struct {
	of     *idlers
	stream *hbone.Stream
	answer []byte // what came of the one that it waits for
	then   func() // called when it has come
}

const idleRequest = "GET / HTTP/1.1\r\nHost: web\r\n\r\n"

// idleAnswer is how the server's answers end.
const idleAnswer = "\r\n\r\nhere"

func (i *idler) ask(then func()) {
	i.then = then
	i.stream.Write([]byte(idleRequest))
}

func (i *idler) Received(p []byte) {
	i.answer = append(i.answer, p...)
	i.stream.Consumed(len(p))
	if !bytes.HasSuffix(i.answer, []byte(idleAnswer)) {
		return
	}
	if !bytes.HasPrefix(i.answer, []byte("HTTP/1.1 200 OK\r\n")) {
		i.of.failed(fmt.Errorf("answer %q", i.answer))
	}
	then := i.then
	i.answer, i.then = nil, nil
	i.of.answered.Add(1)
	then()
}

func (i *idler) Sent(int) {}

func (i *idler) Ended() { i.of.failed(fmt.Errorf("ended after %q", i.answer)) }

func (i *idler) Broken(err error) { i.of.failed(err) }

func (s *idlers) failed(err error) {
	if s.err == nil {
		s.err = err
	}
}

// heard tells whether so many answers have come, and nothing went wrong.
func (s *idlers) heard(count int) error {
	failed := make(chan error, 1)
	s.client.Do(func() { failed <- s.err })
	err, n := <-failed, s.answered.Load()
	if err == nil && n == int64(count) {
		return nil
	}
	return fmt.Errorf("%d of %d have come: %w", n, count, err)
}

// atOnce is how many of the idlers' requests are under way at most.
const atOnce = 50

// idlersOf opens connections to service web, each of which asks once, and then waits.
func (m *mesh) idlersOf(client *byhand.Client, count int) *idlers {
	m.t.Helper()
	s := &idlers{client: client}
	authority, err := hbone.ParseAuthority(netip.AddrPortFrom(m.vip("web"), 80).String())
	if err != nil {
		m.t.Fatal(err)
	}
	begun := 0
	var open func()
	open = func() {
		if begun++; begun > count {
			return
		}
		client.Open(m.identity(), netip.MustParseAddrPort(m.at(15008)), authority, func(stream *hbone.Stream, err error) {
			if err != nil {
				s.failed(err)
				return
			}
			i := &idler{of: s, stream: stream}
			s.all = append(s.all, i)
			stream.Use(i)
			i.ask(open)
		})
	}
	client.Do(func() {
		for range atOnce {
			open()
		}
	})
	m.eventually("an answer on every connection", func() error { return s.heard(count) })
	return s
}

// askAgain has each of the connections ask once more.
func (s *idlers) askAgain() {
	next := 0
	var ask func()
	ask = func() {
		if next++; next <= len(s.all) {
			s.all[next-1].ask(ask)
		}
	}
	s.client.Do(func() {
		for range atOnce {
			ask()
		}
	})
}

func (s *idlers) reset() {
	s.client.Do(func() {
		for _, i := range s.all {
			i.stream.Reset()
		}
		s.all = nil
	})
}

// Connections that wait cost little and hold none to a server. They delay nobody, go on when they are used again, and leave nothing behind.
func TestTenThousandIdleConnections(t *testing.T) {
	const connections, mostEach = 10_000, 5 << 10
	m := newMesh(t, func(c *config.Config) { c.Log.Levels = "warn" }) // else the test holds a line for each request
	var atServer atomic.Int64
	m.serve(serverHost, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(idleAnswer[4:])) }, func(server *http.Server) {
		server.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				atServer.Add(1)
			case http.StateClosed:
				atServer.Add(-1)
			}
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	client := m.caller("shop", "client")
	m.idlersOf(client, 4*atOnce) // so that the connections to the server are there, which are kept
	before := heapNow()
	idle := m.idlersOf(client, connections)
	with := heapNow()
	each := (int64(with) - int64(before)) / connections
	t.Logf("an idle connection is %d bytes at the waypoint and its client together; there are %d connections to the server", each, atServer.Load())
	if each > mostEach {
		t.Errorf("that's more than %d bytes", mostEach)
	}
	if n := atServer.Load(); n > 2*atOnce {
		t.Errorf("%d connections to the server, though %d requests were under way at most", n, atOnce)
	}
	browser := m.browser(m.caller("shop", "another"))
	for range 100 {
		if resp, text := fetch(t, browser, "http://web/"); resp.StatusCode != 200 {
			t.Fatalf("another client meanwhile: %d %s", resp.StatusCode, text)
		}
	}
	idle.askAgain()
	m.eventually("answers to all connections that ask again", func() error { return idle.heard(2 * connections) })
	idle.reset()
	m.eventually("the connections' memory to be free", func() error {
		if now := heapNow(); int64(now)-int64(before) > (int64(with)-int64(before))/10 {
			return fmt.Errorf("%d bytes, %d before the connections, %d with them", now, before, with)
		}
		return nil
	})
	if resp, text := fetch(t, browser, "http://web/"); resp.StatusCode != 200 {
		t.Errorf("when they are gone: %d %s", resp.StatusCode, text)
	}
}
