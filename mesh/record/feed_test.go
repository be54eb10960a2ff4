package record

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"
)

// memory is a client and a server joined by nothing but this test.
type memory struct {
	client, server *Handshake
	changed        chan struct{}
	calls          chan Role // of notify
}

func newMemory() *memory {
	return &memory{changed: make(chan struct{}, 1), calls: make(chan Role, 100)}
}

func startInMemory(client, server *tls.Config) *memory {
	m := newMemory()
	m.client, m.server = Start(known(client), Client, m.notify(Client)), Start(known(server), Server, m.notify(Server))
	return m
}

func (m *memory) notify(role Role) func() {
	return func() {
		m.calls <- role
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// finish passes what each says to the other in pieces of size bytes, till both are done.
func (m *memory) finish(tb testing.TB, size int) (client, server *Result) {
	tb.Helper()
	for !m.client.Done() || !m.server.Done() {
		select {
		case <-m.changed:
		case <-time.After(patience):
			tb.Fatal("the handshake doesn't end")
		}
		pass(m.client, m.server, size)
		pass(m.server, m.client, size)
	}
	client, err := m.client.Result()
	if err != nil {
		tb.Fatal(err)
	}
	server, err = m.server.Result()
	if err != nil {
		tb.Fatal(err)
	}
	return client, server
}

func pass(from, to *Handshake, size int) {
	last := from.Done()
	for piece := range slices.Chunk(from.Output(), size) {
		to.Feed(piece)
	}
	if last {
		to.FeedEnd()
	}
}

func TestHandshakeMayComeByteByByte(t *testing.T) {
	client, server := configs(t)
	startInMemory(client, server).finish(t, 1)
}

// A driver is woken for whole flights: a client's hello and its end, a server's flight and its end.
func TestDriverIsWokenOncePerFlight(t *testing.T) {
	client, server := configs(t)
	m := startInMemory(client, server)
	m.finish(t, 1<<20)
	var calls [2]int
	for range 4 { // the last of them may be called a little after the end is seen
		calls[<-m.calls]++
	}
	if calls != [2]int{2, 2} || len(m.calls) > 0 {
		t.Errorf("woken %v times and %d more", calls, len(m.calls))
	}
}

// What a client sends right behind its last flight is for the Reader, however it comes in.
func TestWhatFollowsTheHandshakeIsLeft(t *testing.T) {
	client, server := configs(t)
	m := startInMemory(client, server)
	for !m.client.Done() {
		<-m.changed
		pass(m.server, m.client, 1<<20)
		if !m.client.Done() {
			pass(m.client, m.server, 1<<20)
		}
	}
	result, err := m.client.Result()
	if err != nil {
		t.Fatal(err)
	}
	following := result.Writer.data("preface")
	following = append(following, result.Writer.data("and more, of which only a part has come")[:20]...)
	input := append(m.client.Output(), following...)
	if n := m.server.Feed(input); n != len(input) {
		t.Errorf("%d bytes of %d taken", n, len(input))
	}
	for !m.server.Done() {
		<-m.changed
	}
	if n := m.server.Feed([]byte("late")); n != 0 {
		t.Errorf("%d bytes taken after the end", n)
	}
	accepted, err := m.server.Result()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(accepted.Rest, following) {
		t.Errorf("%d bytes left, want %d", len(accepted.Rest), len(following))
	}
	if got, err := read(accepted.Reader, accepted.Rest); err != nil || !slices.Equal(got, []string{"preface"}) {
		t.Errorf("read %q, %v", got, err)
	}
}

// Each hand-over to another goroutine costs as much as a signature, so who knows the configuration makes the handshake.
func TestConfigurationIsAskedWhereTheHandshakeIsMade(t *testing.T) {
	client, server := configs(t)
	var asked, verified [2]string
	ask := func(role Role, config *tls.Config) func() (*tls.Config, error) {
		return func() (*tls.Config, error) {
			asked[role] = goroutine()
			config.VerifyConnection = func(tls.ConnectionState) error {
				verified[role] = goroutine()
				return nil
			}
			return config, nil
		}
	}
	m := newMemory()
	m.client, m.server = Start(ask(Client, client), Client, m.notify(Client)), Start(ask(Server, server), Server, m.notify(Server))
	m.finish(t, 4<<10)
	if asked != verified || asked[Client] == asked[Server] || asked[Client] == "" {
		t.Errorf("configurations are asked for by %q, handshakes made by %q", asked, verified)
	}
}

// goroutine names the calling goroutine.
func goroutine() string {
	stack := make([]byte, 64)
	name, _, _ := strings.Cut(string(stack[:runtime.Stack(stack, false)]), " [")
	return name
}

// A peer may talk on without end: what is held of it is bounded, and room is told of.
func TestFeedTakesNoMoreThanItsRoom(t *testing.T) {
	_, server := configs(t)
	notified := make(chan struct{}, 8)
	h := Start(known(server), Server, func() { notified <- struct{}{} })
	// A hello of 64 KiB that crypto/tls collects: three records of one message, and the beginning of a fourth.
	hello := append([]byte{1, 0, 0xff, 0xff}, make([]byte, 1<<16)...)
	var flight []byte
	for piece := range slices.Chunk(hello, MaxPlaintext) {
		flight = append(flight, typeHandshake, 3, 1, byte(len(piece)>>8), byte(len(piece)))
		flight = append(flight, piece...)
	}
	flight = flight[:len(flight)-100]
	if n := h.Feed(flight); n != maxFed {
		t.Fatalf("took %d bytes, has room for %d", n, maxFed)
	}
	for flight = flight[maxFed:]; len(flight) > 0; {
		<-notified
		flight = flight[h.Feed(flight):]
	}
	h.FeedEnd()
	for !h.Done() {
		<-notified
	}
	if _, err := h.Result(); err == nil {
		t.Error("a hello of zeros was accepted")
	}
}

func TestHandshakeEndsWhenItsPeerDoes(t *testing.T) {
	client, server := configs(t)
	for name, c := range map[string]struct {
		role  Role
		input []byte
		want  error
	}{
		"before a word":         {role: Server, want: errPeerEnded},
		"within a header":       {role: Server, input: []byte{typeHandshake, 3}, want: errPeerEnded},
		"within a record":       {role: Server, input: []byte{typeHandshake, 3, 1, 0, 9, 1, 0}, want: errPeerEnded},
		"before its answer":     {role: Client, want: errPeerEnded},
		"with something else":   {role: Server, input: []byte("GET / HTTP/1.1\r\n\r\n")},
		"with no hello at all":  {role: Server, input: []byte{typeHandshake, 3, 1, 0, 4, 99, 0, 0, 0}},
		"with an alert instead": {role: Client, input: []byte{typeAlert, 3, 3, 0, 2, 2, 40}},
	} {
		t.Run(name, func(t *testing.T) {
			config := map[Role]*tls.Config{Client: client, Server: server}[c.role]
			h, ended := startAlone(config, c.role)
			h.Feed(c.input)
			h.FeedEnd()
			<-ended
			result, err := h.Result()
			if err == nil || result != nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("result %v, error %v", result, err)
			}
		})
	}
}

// known is a configuration that need not be waited for.
func known(config *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return config, nil }
}

// startAlone starts a handshake and returns a channel that is closed at its end.
func startAlone(config *tls.Config, role Role) (*Handshake, <-chan struct{}) {
	ended := make(chan struct{})
	started := make(chan *Handshake, 1)
	h := Start(known(config), role, func() {
		h := <-started
		started <- h
		if h.Done() {
			close(ended)
		}
	})
	started <- h
	return h, ended
}

func TestAbortEndsAHandshakeWithItsReason(t *testing.T) {
	client, server := configs(t)
	late := errors.New("deadline of 5 s for a handshake")
	t.Run("while the peer is silent", func(t *testing.T) {
		h, ended := startAlone(client, Client)
		if _, err := h.Result(); err == nil {
			t.Error("a result before the end")
		}
		h.Abort(late)
		<-ended
		if _, err := h.Result(); err != late {
			t.Errorf("error %v", err)
		}
		if n := h.Feed([]byte{1}); n != 0 {
			t.Errorf("%d bytes taken after the end", n)
		}
	})
	t.Run("while a certificate is waited for", func(t *testing.T) {
		asked := make(chan struct{})
		server := server.Clone()
		server.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			close(asked)
			<-hello.Context().Done()
			return nil, context.Cause(hello.Context())
		}
		h, ended := startAlone(server, Server)
		other, otherEnded := startAlone(client, Client)
		for out := other.Output(); ; out = other.Output() {
			if h.Feed(out); len(out) > 0 {
				break
			}
			runtime.Gosched()
		}
		<-asked
		h.Abort(late)
		other.Abort(late)
		<-ended
		<-otherEnded
		if _, err := h.Result(); err != late {
			t.Errorf("error %v", err)
		}
	})
	t.Run("after it ended", func(t *testing.T) {
		m := startInMemory(client, server)
		m.finish(t, 1<<20)
		m.client.Abort(late)
		if _, err := m.client.Result(); err != nil {
			t.Errorf("error %v", err)
		}
	})
}

// Of crypto/tls's connection nothing stays: a tunnel that lives for days would keep its buffers and transcripts.
func TestNothingOfTheHandshakeStays(t *testing.T) {
	client, server := configs(t)
	m := startInMemory(client, server)
	kept, _ := m.finish(t, 1<<20)
	wire := weak.Make(m.client.wire)
	m = nil
	for end := time.Now().Add(patience); wire.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("crypto/tls's connection is still there")
		}
	}
	if len(kept.State.PeerCertificates) == 0 {
		t.Error("the peer's certificate is gone")
	}
}
