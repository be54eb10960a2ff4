package demo

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// hello makes a real handshake and returns what the server sent first.
func hello(t *testing.T, version uint16) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	var sent bytes.Buffer
	server := tls.Server(recorder{far, &sent}, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MaxVersion: version, SessionTicketsDisabled: true,
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := tls.Client(near, &tls.Config{InsecureSkipVerify: true}).Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return sent.Bytes()
}

// recorder keeps what is written to a connection.
type recorder struct {
	net.Conn
	sent io.Writer
}

func (r recorder) Write(b []byte) (int, error) {
	r.sent.Write(b)
	return r.Conn.Write(b)
}

func TestServerHelloTellsTheVersion(t *testing.T) {
	for want, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		sent := hello(t, version)
		if got, ok := serverHello(sent); got != want || !ok || !isRecord(sent) {
			t.Errorf("got %q, %v, want %q", got, ok, want)
		}
		if _, ok := serverHello(sent[:40]); ok {
			t.Error("a piece of a ServerHello counts as one")
		}
	}
	for _, other := range []string{"", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x17\x03\x03\x00\x05hello"} {
		if _, ok := serverHello([]byte(other)); ok {
			t.Errorf("%q counts as a ServerHello", other)
		}
	}
}

func TestRecordsAndCleartext(t *testing.T) {
	cases := []struct {
		bytes             string
		record, cleartext bool
	}{
		{"\x17\x03\x03\x00\x20", true, false},
		{"\x16\x03\x01\x02\x00", true, false},
		{"\x17\x03\x03\xff\xff", false, false}, // longer than a record may be
		{"\x17\x03\x03", false, false},
		{"\x18\x03\x03\x00\x01", false, false},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, true},
		{"GET / HTTP/1.1\r\n", false, true},
		{"HTTP/1.1 200 OK\r\n", false, false}, // has no blank before it; an answer follows a request
	}
	for _, tc := range cases {
		if got := isRecord([]byte(tc.bytes)); got != tc.record {
			t.Errorf("%q is a record: %v", tc.bytes, got)
		}
		if got := isCleartext([]byte(tc.bytes)); got != tc.cleartext {
			t.Errorf("%q is clear text: %v", tc.bytes, got)
		}
	}
}

func TestTCPPayloads(t *testing.T) {
	segment := "\x1f\x90\x00\x50" + "\x00\x00\x00\x01\x00\x00\x00\x02" + "\x50\x18\x00\x10\x00\x00\x00\x00" + "payload"
	v4 := func(length byte, rest string) string {
		return "\x45\x00\x00" + string(length) + "\x00\x00\x40\x00\x40\x06\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02" + rest
	}
	v6 := "\x60\x00\x00\x00\x00\x1b\x06\x40" + "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"
	cases := []struct{ name, packet, from, to, payload string }{
		{"IPv4", v4(47, segment), "10.0.0.1:8080", "10.0.0.2:80", "payload"},
		{"IPv4 with padding", v4(47, segment+"\x00\x00"), "10.0.0.1:8080", "10.0.0.2:80", "payload"},
		{"IPv4, offloaded", v4(0, segment), "10.0.0.1:8080", "10.0.0.2:80", "payload"},
		{"IPv6", v6 + segment, "[fd00::1]:8080", "[fd00::2]:80", "payload"},
		{"cut in the header", v4(47, segment[:12]), "", "", ""},
		{"UDP", "\x45\x00\x00\x2f\x00\x00\x40\x00\x40\x11\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02" + segment, "", "", ""},
		{"a later fragment", "\x45\x00\x00\x2f\x00\x00\x00\x10\x40\x06\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02" + segment, "", "", ""},
		{"ARP", "\x00\x01\x08\x00\x06\x04\x00\x01 and so on, for more than twenty bytes", "", "", ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			from, to, payload, ok := parseTCP([]byte(tc.packet))
			if ok != (tc.from != "") {
				t.Fatalf("ok is %v", ok)
			}
			if ok && (from.String() != tc.from || to.String() != tc.to || string(payload) != tc.payload) {
				t.Errorf("got %s > %s: %q", from, to, payload)
			}
		})
	}
}

// Whatever is on the wire, the capture survives it and invents nothing.
func FuzzPacket(f *testing.F) {
	f.Add([]byte("\x45\x00\x00\x2f\x00\x00\x40\x00\x40\x06\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02\x1f\x90\x3a\xa0\x00\x00\x00\x01\x00\x00\x00\x02\x50\x18\x00\x10\x00\x00\x00\x00\x16\x03\x03\x00\x02\x02\x00"))
	f.Add([]byte("\x60\x00\x00\x00\x00\x1b\x06\x40"))
	f.Fuzz(func(t *testing.T, data []byte) {
		w := &Capture{report: Report{Handshakes: map[string]uint64{}}, markers: [][]byte{[]byte("mark")}}
		w.packet(data)
		if r := w.Report(); len(r.Sightings) > 0 && !bytes.Contains(data, []byte("mark")) {
			t.Errorf("a marker was seen that isn't there: %+v", r.Sightings)
		}
	})
}

// A ServerHello's lengths come from outside.
func FuzzServerHello(f *testing.F) {
	f.Add([]byte("\x16\x03\x03\x00\x4a\x02\x00\x00\x46\x03\x03--------------------------------\x00\x13\x01\x00\x00\x06\x00\x2b\x00\x02\x03\x04"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if version, ok := serverHello(data); ok && (version == "" || data[0] != recordHandshake) {
			t.Errorf("%q from %q", version, data)
		}
	})
}
