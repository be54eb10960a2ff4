package record

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

const patience = 10 * time.Second

// driven is what a driver makes of this package: a connection that blocks, for talks with crypto/tls.
type driven struct {
	conn   net.Conn
	state  tls.ConnectionState
	reader *Reader
	writer *Writer
	in     []byte // read from conn and not yet opened
	plain  []byte // opened and not yet returned

	updates int // how often the peer asked for new keys
}

// drive makes the handshake over conn.
func drive(conn net.Conn, config *tls.Config, role Role) (*driven, error) {
	notified := make(chan struct{}, 1)
	h := Start(known(config), role, func() {
		select {
		case notified <- struct{}{}:
		default:
		}
	})
	pumped := make(chan []byte)
	go func() { pumped <- pump(conn, h) }()
	var failed error
	for done := false; !done; {
		select {
		case <-notified:
		case <-time.After(patience):
			h.Abort(errors.New("out of patience"))
		}
		done = h.Done()
		if _, err := conn.Write(h.Output()); err != nil && failed == nil {
			failed = err
			h.Abort(err)
		}
	}
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	rest := <-pumped
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	result, err := h.Result()
	if err != nil || failed != nil {
		return nil, errors.Join(err, failed)
	}
	return &driven{conn: conn, state: result.State, reader: result.Reader, writer: result.Writer, in: append(result.Rest, rest...)}, nil
}

// pump feeds the handshake until it takes no more, and returns what it did not take.
func pump(conn net.Conn, h *Handshake) []byte {
	buffer := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buffer)
		p := buffer[:n]
		for len(p) > 0 {
			taken := h.Feed(p)
			p = p[taken:]
			if taken == 0 && h.Done() {
				return p
			}
			runtime.Gosched()
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && !h.Done() {
				h.FeedEnd()
			}
			return nil
		}
	}
}

func (d *driven) Read(p []byte) (int, error) {
	for len(d.plain) == 0 {
		n, err := d.reader.Next(d.in)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			buffer := make([]byte, MaxRecord)
			n, err := d.conn.Read(buffer)
			if err == io.EOF {
				return 0, io.ErrUnexpectedEOF // without close_notify
			}
			if err != nil {
				return 0, err
			}
			d.in = append(d.in, buffer[:n]...)
			continue
		}
		if d.plain, err = d.reader.Open(d.in[:n]); err != nil {
			return 0, err
		}
		d.in = d.in[n:]
		if d.reader.UpdateRequested() {
			d.updates++
			answer, err := d.writer.AppendKeyUpdate(nil, false)
			if err != nil {
				return 0, err
			}
			if _, err := d.conn.Write(answer); err != nil {
				return 0, err
			}
		}
	}
	n := copy(p, d.plain)
	d.plain = d.plain[n:]
	return n, nil
}

func (d *driven) Write(p []byte) (int, error) {
	slot := make([]byte, SlotLen)
	for sent := 0; sent < len(p); {
		n := copy(slot[HeaderLen:HeaderLen+MaxPlaintext], p[sent:])
		if _, err := d.conn.Write(slot[:d.writer.Seal(slot, n)]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

func (d *driven) CloseWrite() error {
	_, err := d.conn.Write(d.writer.AppendAlert(nil, CloseNotify))
	return err
}

// configs are two workloads' configurations that accept each other.
func configs(tb testing.TB) (client, server *tls.Config) {
	tb.Helper()
	ca := testca.New(tb, "cluster.local")
	a, b := ca.Credential(ca.Identity("shop", "cart")), ca.Credential(ca.Identity("shop", "till"))
	return mtls.Policy{}.ClientConfig(a, []identity.Workload{b.Identity}), mtls.Policy{}.ServerConfig(b)
}

// stream is an established connection, either ours or crypto/tls's.
type stream interface {
	io.ReadWriter
	CloseWrite() error
}

// sockets are two ends of a real connection.
func sockets(tb testing.TB) (a, b net.Conn) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	if a, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	if b, err = listener.Accept(); err != nil {
		tb.Fatal(err)
	}
	for _, conn := range []net.Conn{a, b} {
		_ = conn.SetDeadline(time.Now().Add(patience))
		tb.Cleanup(func() { conn.Close() })
	}
	return a, b
}

// both makes a connection of which both ends are ours.
func both(tb testing.TB, client, server *tls.Config) (a, b *driven, err error) {
	tb.Helper()
	dialled, accepted := sockets(tb)
	failed := make(chan error)
	go func() {
		var err error
		b, err = drive(accepted, server, Server)
		failed <- err
	}()
	a, err = drive(dialled, client, Client)
	return a, b, errors.Join(err, <-failed)
}

// writeCredential writes a configuration's certificate and key to a file, as other programs want them.
func writeCredential(tb testing.TB, config *tls.Config) string {
	tb.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(config.Certificates[0].PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for _, der := range config.Certificates[0].Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	name := filepath.Join(tb.TempDir(), "credential.pem")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		tb.Fatal(err)
	}
	return name
}

// establish joins our end in role to crypto/tls's in the other.
func establish(tb testing.TB, role Role, client, server *tls.Config) (*driven, *tls.Conn) {
	tb.Helper()
	a, b := sockets(tb)
	ourConfig, other := client, tls.Server(b, server)
	if role == Server {
		ourConfig, other = server, tls.Client(b, client)
	}
	shaken := make(chan error, 1)
	go func() { shaken <- other.Handshake() }()
	ours, err := drive(a, ourConfig, role)
	if err := errors.Join(err, <-shaken); err != nil {
		tb.Fatal(err)
	}
	return ours, other
}
