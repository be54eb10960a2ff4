package controlplane

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// trickle is a server that answers each call with one message of size bytes, piece by piece, a frame each, and answers pings meanwhile.
type trickle struct {
	size, piece int
	pause       time.Duration
}

// session is one connection to it.
type session struct {
	trickle
	conn net.Conn
	over chan struct{} // closed when nothing more can be read

	mu      sync.Mutex
	wire    *http2.Framer
	windows map[uint32]int // of the connection (0) and the stream (1)
	more    *sync.Cond     // windows have grown, or it is over
}

// serve runs it until the client hangs up.
func (s trickle) serve(conn net.Conn) {
	c := &session{trickle: s, conn: conn, over: make(chan struct{}), wire: http2.NewFramer(conn, conn), windows: map[uint32]int{0: 65535, 1: 65535}}
	c.more = sync.NewCond(&c.mu)
	defer conn.Close()
	defer c.more.Broadcast()
	defer close(c.over)
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	c.write(func() error { return c.wire.WriteSettings() })
	for {
		f, err := c.wire.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if window, set := f.Value(http2.SettingInitialWindowSize); set {
					c.grow(1, int(window)-65535) // it is set once
				}
				c.write(c.wire.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.write(func() error { return c.wire.WritePing(true, f.Data) })
			}
		case *http2.WindowUpdateFrame:
			c.grow(f.StreamID, int(f.Increment))
		case *http2.HeadersFrame:
			go c.answer()
		}
	}
}

func (c *session) grow(stream uint32, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.windows[stream] += by
	c.more.Broadcast()
}

func (c *session) write(f func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = f() // fails only when the client has gone
}

func (c *session) answer() {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":status", "200"}, {"content-type", "application/grpc"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	c.write(func() error {
		return c.wire.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	})
	body := append([]byte{0x0a}, binary.AppendUvarint(nil, uint64(c.size))...) // a BytesValue
	body = append(body, make([]byte, c.size)...)
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	for len(message) > 0 {
		for sent := 0; sent < c.piece && len(message) > 0; {
			n := c.send(message[:min(c.piece-sent, len(message), 16<<10)])
			if n == 0 {
				return
			}
			sent, message = sent+n, message[n:]
		}
		select {
		case <-time.After(c.pause):
		case <-c.over:
			return
		}
	}
}

// send sends as much of p as the windows take, at least a byte; 0 when it is over.
func (c *session) send(p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.windows[0] <= 0 || c.windows[1] <= 0 {
		select {
		case <-c.over:
			return 0
		default:
		}
		c.more.Wait()
	}
	n := min(len(p), c.windows[0], c.windows[1])
	c.windows[0] -= n
	c.windows[1] -= n
	if c.wire.WriteData(1, false, p[:n]) != nil {
		return 0
	}
	return n
}

// call opens a stream and waits for its first message.
func (s trickle) call(t *testing.T) error {
	t.Helper()
	key, certificate := serverCertificate(t)
	pool := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	conn, err := grpc.NewClient("passthrough:///plane.test", grpc.WithTransportCredentials(transport{roots: roots{pem: pool}, serverName: "plane.test"}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			near, far := net.Pipe()
			secured := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}}, NextProtos: []string{"h2"}})
			go func() {
				if secured.Handshake() == nil {
					s.serve(secured)
				}
			}()
			return near, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/any")
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.CloseSend()
	return stream.RecvMsg(new(wrapperspb.BytesValue))
}

func serverCertificate(t *testing.T) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"plane.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

// A server may be slow and may be silent, but a message that it has begun has to end. It answers pings all the time.
func TestMessagesThatTrickleEndTheConnection(t *testing.T) {
	for _, test := range []struct {
		name   string
		server trickle
		within time.Duration // of what it is cut; 0 means that the message comes
	}{
		{"byte by byte", trickle{1 << 20, 1, time.Second}, 61 * time.Second},
		{"begun and left", trickle{1 << 20, 1000, 20 * time.Hour}, 61 * time.Second},
		{"only its length", trickle{1 << 20, 5, 20 * time.Hour}, 61 * time.Second},
		{"a little too slow", trickle{64 << 20, 20 << 10, time.Second}, 3 * time.Minute},
		{"slow", trickle{16 << 20, 40 << 10, time.Second}, 0},
		{"large, at once", trickle{16 << 20, 1 << 20, 0}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := test.server.call(t)
				took := time.Since(began)
				if test.within == 0 {
					if err != nil {
						t.Errorf("after %s: %v", took, err)
					}
					return
				}
				if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "too slowly") || took > test.within {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

// frames are what a server sends: whole messages, if all of it comes.
func frames() []byte {
	var wire bytes.Buffer
	f := http2.NewFramer(&wire, nil)
	message := func(size int) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(size)), make([]byte, size)...)
	}
	long := message(1000)
	for _, err := range []error{
		f.WriteSettings(), f.WritePing(false, [8]byte{}),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}, EndHeaders: true}),
		f.WriteData(1, false, append(message(0), message(3)...)),
		f.WriteData(1, false, long[:2]), f.WriteData(3, false, message(7)), f.WriteDataPadded(1, false, long[2:900], make([]byte, 9)),
		f.WriteDataPadded(1, false, nil, make([]byte, 3)), f.WriteWindowUpdate(0, 10), f.WriteData(1, false, append(long[900:], long...)),
		f.WriteData(3, false, long[:100]), f.WriteRSTStream(3, http2.ErrCodeCancel),
		f.WriteData(5, true, long[:100]),
	} {
		if err != nil {
			panic(err)
		}
	}
	return wire.Bytes()
}

func TestEndedMessagesLeaveNothing(t *testing.T) {
	wire := frames()
	for _, piece := range []int{1, 2, 3, 10, 100, len(wire)} {
		var m messages
		begun := false
		for p := range bytes.NewBuffer(wire).Len() {
			if p%piece == 0 {
				if err := m.follow(wire[p:min(p+piece, len(wire))], time.Now()); err != nil {
					t.Fatal(err)
				}
				begun = begun || len(m.partial) > 0
			}
		}
		if len(m.partial) != 0 || !begun && piece < 10 {
			t.Errorf("in pieces of %d: %d messages are left", piece, len(m.partial))
		}
	}
}

func TestMessagesOnTooManyStreams(t *testing.T) {
	var wire bytes.Buffer
	f := http2.NewFramer(&wire, nil)
	for id := range uint32(maxPartial + 1) {
		if err := f.WriteData(2*id+1, false, []byte{0}); err != nil {
			t.Fatal(err)
		}
	}
	if err := new(messages).follow(wire.Bytes(), time.Now()); err == nil {
		t.Error("they are taken")
	}
}

// FuzzMessages follows whatever comes; how it is cut into pieces doesn't matter.
func FuzzMessages(f *testing.F) {
	f.Add(frames(), uint8(3))
	f.Add([]byte("\x00\x00\x01\x00\x08\x00\x00\x00\x01\xff"), uint8(1))
	f.Fuzz(func(t *testing.T, wire []byte, piece uint8) {
		var whole, pieces messages
		now := time.Now()
		err := whole.follow(wire, now)
		var cut error
		for r := bytes.NewReader(wire); cut == nil; {
			p := make([]byte, int(piece)+1)
			n, end := r.Read(p)
			if end == io.EOF {
				break
			}
			cut = pieces.follow(p[:n], now)
		}
		if (err == nil) != (cut == nil) {
			t.Fatalf("as a whole %v, in pieces %v", err, cut)
		}
		if err != nil {
			return
		}
		if len(whole.partial) != len(pieces.partial) || whole.left != pieces.left {
			t.Fatalf("as a whole %d messages and %d bytes are left, in pieces %d and %d", len(whole.partial), whole.left, len(pieces.partial), pieces.left)
		}
		for id, m := range whole.partial {
			if other := pieces.partial[id]; other == nil || *other != *m {
				t.Fatalf("stream %d: as a whole %v, in pieces %v", id, m, other)
			}
		}
	})
}
