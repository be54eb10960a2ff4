package downstream

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// maxHello bounds a ClientHello with its record's header: those of more than one record of the greatest length aren't waited for.
const maxHello = 16<<10 + 5

// mayBeHello tells whether p begins as a record of a TLS handshake does (RFC 8446 section 5.1).
func mayBeHello(p []byte) bool {
	return p[0] == 0x16 && (len(p) < 2 || p[1] == 3)
}

// serverName reads the name in a ClientHello (RFC 6066 section 3), as crypto/tls understands it, in lower case. whole says that more bytes would
// not change the result.
func serverName(p []byte) (name string, whole, ok bool) {
	if len(p) < 5 {
		return "", false, true
	}
	if need := 5 + int(binary.BigEndian.Uint16(p[3:])); len(p) < need {
		return "", need > maxHello, need <= maxHello
	}
	var hello *tls.ClientHelloInfo
	config := &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		hello = info
		return nil, errEnough
	}}
	conn := &beginning{Reader: bytes.NewReader(p)}
	_ = tls.Server(conn, config).Handshake() // fails in any case
	switch {
	case hello != nil:
		return strings.ToLower(hello.ServerName), true, true
	case conn.exhausted && len(p) < maxHello: // it goes on in another record
		return "", false, true
	}
	return "", true, false
}

var errEnough = errors.New("the hello is all that was asked for")

// beginning is a connection of which the beginning has come, for crypto/tls to read.
type beginning struct {
	*bytes.Reader
	exhausted bool
}

func (c *beginning) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.exhausted = c.exhausted || errors.Is(err, io.EOF)
	return n, err
}

func (c *beginning) Write(p []byte) (int, error)      { return len(p), nil }
func (c *beginning) Close() error                     { return nil }
func (c *beginning) LocalAddr() net.Addr              { return nil }
func (c *beginning) RemoteAddr() net.Addr             { return nil }
func (c *beginning) SetDeadline(time.Time) error      { return nil }
func (c *beginning) SetReadDeadline(time.Time) error  { return nil }
func (c *beginning) SetWriteDeadline(time.Time) error { return nil }
