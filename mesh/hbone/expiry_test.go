package hbone

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// A tunnel outlives the certificates that it was proven with for what it carries, and takes nothing new.
func TestTunnelsOfExpiredCertificatesTakeNoNewStreams(t *testing.T) {
	for name, short := range map[string]func(*pair) **mtls.Credential{
		"the client's": func(p *pair) **mtls.Credential { return &p.client },
		"the server's": func(p *pair) **mtls.Credential { return &p.server },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				credential := short(p)
				*credential = p.ca.Issue(testca.Spec{Identity: (*credential).Identity, NotAfter: time.Now().Add(time.Hour)})
				near, far := p.joined()
				first := p.pool.tunnels()[0]
				connectOn := func() *tunnel {
					s, err := p.connect()
					if err != nil {
						t.Fatal(err)
					}
					defer s.Reset()
					return s.t
				}
				p.pass(59 * time.Minute)
				if connectOn() != first {
					t.Error("a tunnel with valid certificates isn't shared")
				}
				*credential = p.ca.Credential((*credential).Identity)
				if connectOn() != first {
					t.Error("a renewed certificate alone ends a tunnel")
				}
				p.pass(2 * time.Minute)
				if connectOn() == first {
					t.Error("a tunnel takes a stream after a certificate has expired")
				}
				if !first.core.GoneAway() {
					t.Error("the peer isn't told to open no more streams")
				}
				p.exchange(near.app, far.app)
				p.exchange(far.app, near.app)
				_ = unix.Shutdown(near.app, unix.SHUT_WR)
				_ = unix.Shutdown(far.app, unix.SHUT_WR)
				p.pass(time.Minute)
				if n := len(p.pool.tunnels()); n != 1 {
					t.Errorf("%d tunnels are left of the client's after the stream's end, want the new one", n)
				}
				if n := len(p.srv.tunnels); n != 1 {
					t.Errorf("%d tunnels are left of the server's after the stream's end, want the new one", n)
				}
			})
		})
	}
}

// exchange has one application hear what the other says.
func (p *pair) exchange(from, to int) {
	p.t.Helper()
	if _, err := loop.Write(from, []byte("x")); err != nil {
		p.t.Error(err)
	}
	p.settle()
	var got [2]byte
	if n, err := loop.Read(to, got[:]); n != 1 || err != nil || got[0] != 'x' {
		p.t.Errorf("heard %q, %v", got[:max(n, 0)], err)
	}
}
