package secure

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is one that servers' certificates come from.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(template, template, nil)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// server is a configuration with a certificate for names, or URIs.
func (a *authority) server(ends time.Time, names ...string) *tls.Config {
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: ends, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			template.URIs = append(template.URIs, u)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	cert, key := a.sign(template, a.cert, a.key)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}}
}

func policy(t *testing.T, from *l7.BackendTLS) *Policy {
	t.Helper()
	p, err := Compile(&l7.Origin{Kind: "BackendTLSPolicy", Namespace: "shop", Name: "tls"}, from)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reader is a user of a pipe. Its fields are the loop's.
type reader struct {
	p      *pipe.Pipe
	most   int // that it takes at once; 0 for everything
	got    []byte
	ended  bool
	broken error
}

func (r *reader) Receive(p []byte, end bool) int {
	n := len(p)
	if r.most > 0 && n > r.most {
		n = r.most
		r.p.Resume()
	}
	r.got = append(r.got, p[:n]...)
	r.ended = r.ended || end && n == len(p)
	return n
}

func (r *reader) Sent() {}

func (r *reader) Broken(err error) { r.broken = err }

// outcome is what a handshake has come to.
type outcome struct {
	within   *pipe.Pipe
	protocol string
	err      error
	told     bool
}

// dial speaks TLS to a server of the other end of a socket, which serve is. The pipe's user, if there is one, starts at once.
func dial(t *testing.T, l *loop.Loop, p *Policy, user pipe.User, serve func(net.Conn), protocols ...string) *outcome {
	t.Helper()
	return dialThrough(t, l, p, user, serve, func(fd int) (carrier *pipe.Pipe) {
		onloop.Do(t, l, func() { carrier = pipe.OverSocket(l, fd, nil) })
		return carrier
	}, protocols...)
}

// tunnel makes a pipe that is a tunnel to where the socket is.
func tunnel(t *testing.T, l *loop.Loop) func(fd int) *pipe.Pipe {
	tunnels := onloop.NewTunnels(t, l)
	return func(fd int) (near *pipe.Pipe) {
		tunnels.Stream(func(s *hbone.Stream) { near = pipe.OverStream(l, s) }, func(s *hbone.Stream) {
			pipe.Join(pipe.OverStream(l, s), pipe.OverSocket(l, fd, nil), func(relay.Result) {})
		})
		return near
	}
}

func dialThrough(t *testing.T, l *loop.Loop, p *Policy, user pipe.User, serve func(net.Conn), carry func(fd int) *pipe.Pipe, protocols ...string) *outcome {
	t.Helper()
	conn, fd := onloop.Socket(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		serve(conn)
	}()
	t.Cleanup(func() { <-served })
	o, carrier := &outcome{}, carry(fd)
	onloop.Do(t, l, func() {
		Client(carrier, p, protocols, func(within *pipe.Pipe, protocol string, err error) {
			*o = outcome{within, protocol, err, true}
			if err == nil && user != nil {
				within.Start(user)
			}
		})
	})
	onloop.Eventually(t, l, "the handshake's end", func() bool { return o.told })
	return o
}

func TestBytesGoThroughTLSBothWaysAndEnd(t *testing.T) {
	a := newAuthority(t)
	p := policy(t, &l7.BackendTLS{Hostname: "web.example", Authorities: a.pem()})
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	for _, c := range []struct {
		name    string
		version uint16
		most    int  // that the reader takes at once; 0 for everything
		within  bool // a tunnel
	}{
		{"TLS 1.2", tls.VersionTLS12, 0, false}, {"TLS 1.2, slowly", tls.VersionTLS12, 1000, false},
		{"TLS 1.3", tls.VersionTLS13, 0, false}, {"TLS 1.3, slowly", tls.VersionTLS13, 1000, false},
		{"within a tunnel", tls.VersionTLS13, 0, true}, {"within a tunnel, slowly", tls.VersionTLS13, 1000, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := onloop.New(t)
			config := a.server(time.Now().Add(time.Hour), "web.example")
			config.MaxVersion = c.version
			serve := func(conn net.Conn) {
				server := tls.Server(conn, config)
				if err := server.Handshake(); err != nil || server.ConnectionState().ServerName != "web.example" {
					t.Errorf("asked for %q: %v", server.ConnectionState().ServerName, err)
				}
				_, _ = io.Copy(server, server)
				_ = server.CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
			}
			var o *outcome
			if c.within {
				o = dialThrough(t, l, p, nil, serve, tunnel(t, l), "h2", "http/1.1")
			} else {
				o = dial(t, l, p, nil, serve, "h2", "http/1.1")
			}
			if o.err != nil || o.protocol != "h2" {
				t.Fatalf("%q: %v", o.protocol, o.err)
			}
			r := &reader{p: o.within, most: c.most}
			onloop.Do(t, l, func() {
				o.within.Start(r)
				for piece := content; len(piece) > 0; {
					n := min(len(piece), 100_000)
					o.within.Write(piece[:n])
					piece = piece[n:]
				}
				o.within.End()
			})
			onloop.Eventually(t, l, "the end", func() bool { return r.ended || r.broken != nil })
			if onloop.Do(t, l, func() {}); r.broken != nil || !bytes.Equal(r.got, content) {
				t.Errorf("%d bytes of %d: %v", len(r.got), len(content), r.broken)
			}
		})
	}
}

func TestWhoIsNotProvenIsNotSpokenTo(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	year, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	host := func(names ...string) (list []*l7.SubjectAltName) {
		for _, name := range names {
			if strings.Contains(name, ":") {
				list = append(list, &l7.SubjectAltName{Uri: name})
			} else {
				list = append(list, &l7.SubjectAltName{Hostname: name})
			}
		}
		return list
	}
	tooOld := a.server(year, "web.example")
	tooOld.MinVersion, tooOld.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	for name, test := range map[string]struct {
		server *tls.Config
		names  []*l7.SubjectAltName
		want   string // in the error; "" for none
	}{
		"right name":        {a.server(year, "web.example"), nil, ""},
		"wrong name":        {a.server(year, "api.example"), nil, "valid for api.example, not web.example"},
		"unknown authority": {other.server(year, "web.example"), nil, "unknown authority"},
		"expired":           {a.server(past, "web.example"), nil, "expired"},
		"too old":           {tooOld, nil, "protocol version"},
		"another name":      {a.server(year, "api.example"), host("x.example", "api.example"), ""},
		"a URI":             {a.server(year, "spiffe://a/b"), host("spiffe://a/b"), ""},
		"none of the names": {a.server(year, "web.example"), host("x.example", "spiffe://a/b"), "none of the policy's subjectAltNames"},
		"a wildcard":        {a.server(year, "*.example"), host("*.example"), ""},
		"no wildcard":       {a.server(year, "api.example"), host("*.example"), "none of the policy's subjectAltNames"},
		"a name, unknown":   {other.server(year, "api.example"), host("api.example"), "unknown authority"},
		"a name, expired":   {a.server(past, "api.example"), host("api.example"), "expired"},
	} {
		l := onloop.New(t)
		o := dial(t, l, policy(t, &l7.BackendTLS{Hostname: "web.example", Authorities: a.pem(), SubjectAltNames: test.names}), nil, func(conn net.Conn) {
			server := tls.Server(conn, test.server)
			if server.Handshake() == nil {
				_, _ = io.Copy(io.Discard, server)
			}
		})
		switch {
		case test.want == "" && o.err != nil:
			t.Errorf("%s: %v", name, o.err)
		case test.want != "" && (o.err == nil || !strings.Contains(o.err.Error(), test.want) || !strings.Contains(o.err.Error(), "shop/tls")):
			t.Errorf("%s: %v, want %s", name, o.err, test.want)
		}
		if o.within != nil {
			onloop.Do(t, l, o.within.Reset)
		}
	}
}

func TestAServerThatSpeaksNoTLSIsAnError(t *testing.T) {
	p := policy(t, &l7.BackendTLS{Hostname: "web.example", System: true})
	for name, serve := range map[string]func(net.Conn){
		"plain text": func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"nothing":    func(net.Conn) {},
		"too much":   func(conn net.Conn) { _, _ = conn.Write(append([]byte{22, 3, 3, 0x40, 0}, make([]byte, 200_000)...)) },
		"a reset":    func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) },
	} {
		if o := dial(t, onloop.New(t), p, nil, serve); o.err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A server may say that it has ended only within TLS: whoever is between could make an answer shorter otherwise.
func TestAnEndThatTLSDoesNotTellBreaks(t *testing.T) {
	a := newAuthority(t)
	l := onloop.New(t)
	r := &reader{}
	o := dial(t, l, policy(t, &l7.BackendTLS{Hostname: "web.example", Authorities: a.pem()}), r, func(conn net.Conn) {
		_, _ = io.WriteString(tls.Server(conn, a.server(time.Now().Add(time.Hour), "web.example")), "half")
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	})
	if o.err != nil {
		t.Fatal(o.err)
	}
	onloop.Eventually(t, l, "an error", func() bool { return r.broken != nil })
	if !errors.Is(r.broken, errTruncated) || string(r.got) != "half" || r.ended {
		t.Errorf("%q, ended %t: %v", r.got, r.ended, r.broken)
	}
}

func TestACancelledHandshakeLeavesNothing(t *testing.T) {
	l := onloop.New(t)
	conn, fd := onloop.Socket(t)
	defer conn.Close()
	onloop.Do(t, l, func() {
		cancel := Client(pipe.OverSocket(l, fd, nil), policy(t, &l7.BackendTLS{Hostname: "web.example", System: true}), nil, func(*pipe.Pipe, string, error) {
			t.Error("it is told of")
		})
		cancel()
		cancel()
	})
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestAPolicyThatCannotBeObeyedRefuses(t *testing.T) {
	a := newAuthority(t)
	for want, from := range map[string]*l7.BackendTLS{
		"no such ConfigMap":    {Hostname: "a.example", Invalid: "no such ConfigMap"},
		"no host name":         {Authorities: a.pem()},
		"trusts no authority":  {Hostname: "a.example"},
		"a host name or a URI": {Hostname: "a.example", System: true, SubjectAltNames: []*l7.SubjectAltName{{}}},
	} {
		p, err := Compile(&l7.Origin{Kind: "BackendTLSPolicy", Namespace: "shop", Name: "tls"}, from)
		if !strings.Contains(p.Invalid, want) || !strings.Contains(p.Invalid, "shop/tls") || (err == nil) != (from.GetInvalid() != "") {
			t.Errorf("%s: %q, %v", want, p.Invalid, err)
		}
	}
}
