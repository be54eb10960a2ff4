package relay

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

// WriteCredential writes a new key, and a certificate for it that is its own authority, to a file for both relays.
func WriteCredential(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	return os.WriteFile(path, text, 0o600)
}

const name = "relay.test"

// secret makes TLS connections between the relays.
type secret struct {
	config *tls.Config
}

func loadSecret(path string) (*secret, error) {
	pair, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	return &secret{&tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, ClientCAs: roots, ServerName: name,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
		SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}}, nil
}

// warmUp makes a few handshakes: the first of a process takes several times as long as the next.
func (s *secret) warmUp() error {
	for range 3 {
		a, b := net.Pipe()
		server := tls.Server(a, s.config)
		ended := make(chan error, 1)
		go func() { ended <- server.Handshake() }()
		err := tls.Client(b, s.config).Handshake()
		if err = errors.Join(err, <-ended); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		a.Close()
		b.Close()
	}
	return nil
}

// tunnel is a TLS connection that reads ahead, and writes the records of one Write at once.
type tunnel struct {
	*tls.Conn
	batch *batch
}

func (s *secret) client(conn *net.TCPConn) (*tunnel, error) {
	b := newBatch(conn)
	return (&tunnel{tls.Client(b, s.config), b}).handshake()
}

func (s *secret) server(conn *net.TCPConn) (*tunnel, error) {
	b := newBatch(conn)
	return (&tunnel{tls.Server(b, s.config), b}).handshake()
}

func (t *tunnel) handshake() (*tunnel, error) {
	if err := t.SetDeadline(time.Now().Add(headerLimit)); err != nil {
		return nil, err
	}
	if err := t.Handshake(); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return t, t.SetDeadline(time.Time{})
}

// batch is the socket under a tunnel. Its writer gathers while corked.
type batch struct {
	*net.TCPConn
	reader  *bufio.Reader
	corked  bool
	waiting []byte
}

// readAhead holds several records.
const readAhead = 128 << 10

func newBatch(conn *net.TCPConn) *batch {
	return &batch{TCPConn: conn, reader: bufio.NewReaderSize(conn, readAhead)}
}

// Read implements net.Conn.
func (b *batch) Read(p []byte) (int, error) { return b.reader.Read(p) }

// Write implements net.Conn.
func (b *batch) Write(p []byte) (int, error) {
	if !b.corked {
		return b.TCPConn.Write(p)
	}
	b.waiting = append(b.waiting, p...)
	return len(p), nil
}

func (b *batch) flush() error {
	b.corked = false
	_, err := b.TCPConn.Write(b.waiting)
	b.waiting = b.waiting[:0]
	return err
}

const (
	recordHeader = 5
	recordSize   = 16 << 10 // of plain text, at most
)

// complete tells whether the next record has been read ahead, so that reading it doesn't wait.
func (b *batch) complete() bool {
	if b.reader.Buffered() < recordHeader {
		return false
	}
	header, _ := b.reader.Peek(recordHeader)
	return b.reader.Buffered() >= recordHeader+int(binary.BigEndian.Uint16(header[3:]))
}

var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// join moves bytes both ways until both have ended.
func (t *tunnel) join(app *net.TCPConn) error {
	sent := make(chan error, 1)
	go func() { sent <- t.send(app) }()
	return errors.Join(t.receive(app), <-sent)
}

func (t *tunnel) send(app *net.TCPConn) error {
	buffer := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buffer)
	for {
		n, err := app.Read(buffer[:])
		if n > 0 {
			t.batch.corked = true
			if _, err := t.Write(buffer[:n]); err != nil {
				return err
			}
			if err := t.batch.flush(); err != nil {
				return err
			}
		}
		if err != nil {
			return errors.Join(notEOF(err), t.CloseWrite())
		}
	}
}

// receive writes all records that have come at once.
func (t *tunnel) receive(app *net.TCPConn) error {
	buffer := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buffer)
	for {
		n, err := t.Read(buffer[:])
		for err == nil && len(buffer)-n >= recordSize && t.batch.complete() {
			var more int
			more, err = t.Read(buffer[n:])
			n += more
		}
		if n > 0 {
			if _, err := app.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return errors.Join(notEOF(err), app.CloseWrite())
		}
	}
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
