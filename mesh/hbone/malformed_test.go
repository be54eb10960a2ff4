package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// rawPeer speaks frames over a real TLS connection.
type rawPeer struct {
	*http2.Framer
	tb      testing.TB
	conn    *tls.Conn
	encoder *hpack.Encoder
	block   bytes.Buffer
}

func newRawPeer(tb testing.TB, conn *tls.Conn) *rawPeer {
	_ = conn.SetDeadline(time.Now().Add(patience))
	p := &rawPeer{Framer: http2.NewFramer(conn, conn), tb: tb, conn: conn}
	p.SetMaxReadFrameSize(1 << 20)
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.AllowIllegalWrites = true
	p.encoder = hpack.NewEncoder(&p.block)
	return p
}

func (p *rawPeer) headers(id uint32, end bool, pairs ...string) {
	p.tb.Helper()
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = p.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block.Bytes(), EndStream: end, EndHeaders: true}); err != nil {
		p.tb.Error(err)
	}
}

// next returns the next frame that isn't about the connection.
func (p *rawPeer) next() (http2.Frame, error) {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame, *http2.WindowUpdateFrame, *http2.PingFrame:
		default:
			return f, nil
		}
	}
}

// request returns the stream of the next request.
func (p *rawPeer) request() uint32 {
	for {
		f, err := p.next()
		if err != nil {
			p.tb.Error(err)
			return 0
		}
		if _, ok := f.(*http2.MetaHeadersFrame); ok {
			return f.Header().StreamID
		}
	}
}

// rawClient connects to the bed's server.
func (b *bed) rawClient() *rawPeer {
	b.tb.Helper()
	conn, err := tls.Dial("tcp", b.listener.Addr().String(), mtls.Policy{}.ClientConfig(b.client, []identity.Workload{b.server.Identity}))
	if err != nil {
		b.tb.Fatal(err)
	}
	b.tb.Cleanup(func() { _ = conn.Close() })
	p := newRawPeer(b.tb, conn)
	_, _ = conn.Write([]byte(http2.ClientPreface))
	_ = p.WriteSettings()
	return p
}

func TestRequestsThatAreNone(t *testing.T) {
	for _, test := range []struct {
		name   string
		send   func(*rawPeer)
		want   string
		report string
	}{
		{"GET", func(p *rawPeer) {
			p.headers(1, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a:1")
		},
			"HEADERS 400 end", "not a CONNECT"},
		{"authority without a port", func(p *rawPeer) { p.headers(1, false, ":method", "CONNECT", ":authority", "10.0.0.1") },
			"HEADERS 400 end", "no port"},
		{"authority with a wild port", func(p *rawPeer) { p.headers(1, false, ":method", "CONNECT", ":authority", "10.0.0.1:0") },
			"HEADERS 400 end", "port"},
		{"authority that is no name", func(p *rawPeer) { p.headers(1, false, ":method", "CONNECT", ":authority", "a b:1") },
			"HEADERS 400 end", "illegal character"},
		{"no authority", func(p *rawPeer) { p.headers(1, false, ":method", "CONNECT") }, "RST_STREAM PROTOCOL_ERROR", ""},
		{"headers on a connected stream", func(p *rawPeer) {
			p.headers(1, false, ":method", "CONNECT", ":authority", "a:1")
			_, _ = p.next()
			p.headers(1, true, "trailer", "x")
		}, "RST_STREAM PROTOCOL_ERROR", ""},
		{"broken frame", func(p *rawPeer) { _ = p.WriteRawFrame(http2.FramePing, 0, 0, []byte("x")) }, "GOAWAY FRAME_SIZE_ERROR", "FRAME_SIZE_ERROR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			b.onConnect(accepting)
			p := b.rawClient()
			test.send(p)
			f, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(f); got != test.want {
				t.Errorf("the answer is %q, want %q", got, test.want)
			}
			if test.report != "" {
				b.reported(StageHTTP2, test.report)
			}
		})
	}
}

// A client need not wait for anything: all it has may arrive before the handshake is over.
func TestClientThatSendsAllAtOnce(t *testing.T) {
	b := newBed(t)
	app, inner := tcpPair(t)
	b.onConnect(func(in *Incoming) {
		if s, err := in.Accept(Baggage{}); err == nil {
			joinHere(s, inner, make(chan relay.Result, 1))
		}
	})
	slow := make(chan struct{})
	slowly := func(context.Context) (*tls.Config, error) {
		config := mtls.Policy{}.ServerConfig(b.server)
		verify := config.VerifyConnection
		config.VerifyConnection = func(state tls.ConnectionState) error {
			<-slow
			return verify(state)
		}
		return config, nil
	}
	b.onFar(func() { b.srv.cfg.TLS = slowly })
	p := b.rawClient()
	p.headers(1, false, ":method", "CONNECT", ":authority", "a:1")
	content := noise(1<<20, 8)
	var writer sync.WaitGroup
	writer.Go(func() {
		for left := content; len(left) > 0; {
			n := min(len(left), 16<<10)
			if err := p.WriteData(1, n == len(left), left[:n]); err != nil {
				t.Error(err)
				return
			}
			left = left[n:]
		}
	})
	eventually(t, "the server to have read what it may", func() (full bool) {
		b.onFar(func() {
			for h := range b.srv.handshakes {
				full = h.full
			}
		})
		return full
	})
	close(slow)
	if err := same(app, content); err != nil {
		t.Error(err)
	}
	writer.Wait()
}

// One who floods with bad requests loses the tunnel.
func TestFloodOfRequestsThatAreNone(t *testing.T) {
	b := newBed(t)
	p := b.rawClient()
	id := uint32(1)
	get := func() {
		p.headers(id, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a:1")
		id += 2
	}
	for range 500 {
		get()
		if f, err := p.next(); err != nil || describe(f) != "HEADERS 400 end" {
			t.Fatalf("the answer is %v, %v", f, err)
		}
	}
	for range 600 {
		get()
	}
	for {
		f, err := p.next()
		if err != nil {
			t.Fatalf("no GOAWAY but %v", err)
		}
		if got := describe(f); got != "HEADERS 400 end" {
			if got != "GOAWAY ENHANCE_YOUR_CALM" {
				t.Errorf("the flood is answered by %s", got)
			}
			break
		}
	}
	b.reported(StageHTTP2, "not a CONNECT")
	b.reported(StageHTTP2, "ENHANCE_YOUR_CALM")
}

func describe(f http2.Frame) string {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		end := ""
		if f.StreamEnded() {
			end = " end"
		}
		return "HEADERS " + f.PseudoValue("status") + end
	case *http2.RSTStreamFrame:
		return "RST_STREAM " + f.ErrCode.String()
	case *http2.GoAwayFrame:
		return "GOAWAY " + f.ErrCode.String()
	}
	return f.Header().String()
}

// What others reset with decides what the application sees.
func TestResetsOfAPeer(t *testing.T) {
	for _, test := range []struct {
		code http2.ErrCode
		end  bool
		want error
	}{
		{http2.ErrCodeConnect, false, syscall.ECONNRESET},
		{http2.ErrCodeCancel, false, syscall.ECONNRESET},
		{http2.ErrCodeCancel, true, nil},
		{http2.ErrCodeNo, true, nil},
	} {
		t.Run(fmt.Sprint(test.code, test.end), func(t *testing.T) {
			b := newBed(t)
			app, inner := tcpPair(t)
			b.onConnect(func(in *Incoming) {
				if s, err := in.Accept(Baggage{}); err == nil {
					joinHere(s, inner, make(chan relay.Result, 1))
				}
			})
			p := b.rawClient()
			p.headers(1, false, ":method", "CONNECT", ":authority", "a:1")
			_, _ = p.next()
			if test.end {
				_ = p.WriteData(1, true, []byte("bye"))
			}
			_ = p.WriteRSTStream(1, test.code)
			got := make([]byte, 10)
			var err error
			n := 0
			for err == nil {
				var more int
				more, err = app.Read(got[n:])
				n += more
			}
			if test.want == nil && (string(got[:n]) != "bye" || err != io.EOF) {
				t.Errorf("the application got %q and %v, want the last words and FIN", got[:n], err)
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("the application got %v, want a reset", err)
			}
		})
	}
}

// rawServer accepts tunnels and answers them by a script per tunnel.
func (b *bed) rawServer(scripts ...func(*rawPeer)) netip.AddrPort {
	l := listen(b.tb)
	b.accepts.Go(func() {
		for _, script := range scripts {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			secured := tls.Server(conn, mtls.Policy{}.ServerConfig(b.server))
			p := newRawPeer(b.tb, secured)
			if _, err := secured.Read(make([]byte, len(http2.ClientPreface))); err == nil {
				_ = p.WriteSettings()
				script(p)
			}
			b.tb.Cleanup(func() { _ = secured.Close() })
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestUnprocessedRequestsAreTriedElsewhere(t *testing.T) {
	accept := func(p *rawPeer) {
		f, err := p.next()
		if err != nil {
			p.tb.Error(err)
			return
		}
		p.headers(f.Header().StreamID, false, ":status", "200")
	}
	for _, test := range []struct {
		name   string
		refuse func(*rawPeer)
	}{
		{"REFUSED_STREAM with GOAWAY", func(p *rawPeer) {
			f, _ := p.next()
			_ = p.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
			_ = p.WriteRSTStream(f.Header().StreamID, http2.ErrCodeRefusedStream)
		}},
		{"GOAWAY that leaves it out", func(p *rawPeer) {
			_, _ = p.next()
			_ = p.WriteGoAway(0, http2.ErrCodeNo, nil)
		}},
		{"GOAWAY and close", func(p *rawPeer) {
			_, _ = p.next()
			_ = p.WriteGoAway(0, http2.ErrCodeNo, nil)
			_ = p.conn.Close()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBed(t)
			target := b.target()
			target.Addr = b.rawServer(test.refuse, accept)
			if _, err := connect(b.pool, target, b.request()); err != nil {
				t.Fatalf("Connect = %v", err)
			}
		})
	}
}

func TestPeersThatNeverProcessAreGivenUp(t *testing.T) {
	b := newBed(t)
	target := b.target()
	refuse := func(p *rawPeer) {
		_, _ = p.next()
		_ = p.WriteGoAway(0, http2.ErrCodeNo, nil)
	}
	target.Addr = b.rawServer(refuse, refuse, refuse, refuse, refuse)
	if _, err := connect(b.pool, target, b.request()); !errors.Is(err, errUnprocessed) {
		t.Errorf("Connect = %v, want %v", err, errUnprocessed)
	}
}

// The reason that an unfriendly peer gives reaches those who wait.
func TestGoAwaySaysWhy(t *testing.T) {
	b := newBed(t)
	target := b.target()
	target.Addr = b.rawServer(func(p *rawPeer) {
		f, _ := p.next()
		_ = p.WriteGoAway(f.Header().StreamID, http2.ErrCodeEnhanceYourCalm, nil)
		_ = p.conn.Close()
	})
	_, err := connect(b.pool, target, b.request())
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("ENHANCE_YOUR_CALM")) {
		t.Errorf("Connect = %v", err)
	}
}
