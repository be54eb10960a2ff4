package record

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
)

// secrets are the first traffic secrets of both directions (RFC 8446 section 7.1).
type secrets struct {
	client, server [maxSecret]byte
	length         int
}

func (s *secrets) clear() { *s = secrets{} }

// keyLog takes the secrets out of what crypto/tls tells key logs, a line at a time: label, client's random, secret, both in
// hexadecimal. It's the only way by which it hands them out for connections that aren't QUIC's.
type keyLog struct {
	secrets *secrets
	next    io.Writer // the configuration's own, or nil
}

func (l *keyLog) Write(line []byte) (int, error) {
	label, rest, _ := bytes.Cut(line, []byte{' '})
	_, secret, _ := bytes.Cut(bytes.TrimSuffix(rest, []byte{'\n'}), []byte{' '})
	var into *[maxSecret]byte
	switch string(label) {
	case "CLIENT_TRAFFIC_SECRET_0":
		into = &l.secrets.client
	case "SERVER_TRAFFIC_SECRET_0":
		into = &l.secrets.server
	}
	if into != nil {
		if len(secret) > hex.EncodedLen(maxSecret) {
			return 0, fmt.Errorf("%s has %d hexadecimal digits", label, len(secret))
		}
		n, err := hex.Decode(into[:], secret)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", label, err)
		}
		l.secrets.length = n
	}
	if l.next != nil {
		return l.next.Write(line)
	}
	return len(line), nil
}
