package record

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
	_ "unsafe" // for go:linkname

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The cipher suites that crypto/tls offers and prefers, of which no configuration has a say.
//
//go:linkname defaultCipherSuitesTLS13 crypto/tls.defaultCipherSuitesTLS13
var defaultCipherSuitesTLS13 []uint16

func (r Role) String() string { return [...]string{"client", "server"}[r] }

var bothRoles = []Role{Client, Server}

func TestTalksWithCryptoTLS(t *testing.T) {
	client, server := configs(t)
	for _, id := range allSuites {
		for _, role := range bothRoles {
			t.Run(tls.CipherSuiteName(id)+" as "+role.String(), func(t *testing.T) {
				before := defaultCipherSuitesTLS13
				defaultCipherSuitesTLS13 = []uint16{id}
				ours, theirs := establish(t, role, client, server)
				defaultCipherSuitesTLS13 = before
				if ours.state.CipherSuite != id {
					t.Fatalf("agreed on %s", tls.CipherSuiteName(ours.state.CipherSuite))
				}
				exchange(t, ours, theirs, 1<<20+7)
			})
		}
	}
}

func TestTalksWithItself(t *testing.T) {
	client, server := configs(t)
	ours, theirs, err := both(t, client, server)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, ours, theirs, 1<<20)
}

// crypto/tls answers a request for new keys with new keys of its own, and each side goes on.
func TestKeysChangeUnderTraffic(t *testing.T) {
	client, server := configs(t)
	for _, role := range bothRoles {
		t.Run("as "+role.String(), func(t *testing.T) {
			ours, theirs := establish(t, role, client, server)
			before, _ := ours.reader.State()
			for range 3 {
				update := must(ours.writer.AppendKeyUpdate(nil, true))(t)
				if _, err := ours.conn.Write(update); err != nil {
					t.Fatal(err)
				}
				echo(t, ours, theirs)
			}
			if after, _ := ours.reader.State(); bytes.Equal(after.Secret, before.Secret) {
				t.Error("the peer's keys are still the first ones")
			}
			exchange(t, ours, theirs, 1<<17)
		})
	}
}

// A state passed on is as good as the reader and writer that it came from.
func TestConnectionGoesOnFromItsState(t *testing.T) {
	client, server := configs(t)
	ours, theirs := establish(t, Client, client, server)
	update := must(ours.writer.AppendKeyUpdate(nil, true))(t)
	if _, err := ours.conn.Write(update); err != nil {
		t.Fatal(err)
	}
	echo(t, ours, theirs)
	state, ok := ours.reader.State()
	if !ok {
		t.Fatal("no state")
	}
	ours.reader = must(NewReader(state, Server))(t)
	ours.writer = must(NewWriter(ours.writer.State()))(t)
	exchange(t, ours, theirs, 1<<17)
}

func TestResultSaysWhatWasAgreed(t *testing.T) {
	client, server := configs(t)
	client.ServerName = "till.shop"
	ours, theirs, err := both(t, client, server)
	if err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]tls.ConnectionState{"cart": theirs.state, "till": ours.state} {
		id, err := mtls.PeerIdentity(state)
		if err != nil || id.String() != "spiffe://cluster.local/ns/shop/sa/"+name {
			t.Errorf("peer %v, %v", id, err)
		}
		if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2" || state.ServerName != "till.shop" || state.CurveID != tls.X25519MLKEM768 {
			t.Errorf("agreed on %+v", state)
		}
	}
}

// A second hello, as after a key share that the server doesn't want, changes nothing for the driver.
func TestServerMayAskForAnotherKeyShare(t *testing.T) {
	client, server := configs(t)
	server.CurvePreferences = []tls.CurveID{tls.CurveP384}
	ours, theirs, err := both(t, client, server)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, ours, theirs, 100)
}

func TestPeerLearnsWhyItWasRefused(t *testing.T) {
	ca, other := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	a, b, stranger := ca.Credential(ca.Identity("shop", "cart")), ca.Credential(ca.Identity("shop", "till")), other.Credential(other.Identity("shop", "cart"))
	expect := func(id identity.Workload) []identity.Workload { return []identity.Workload{id} }

	t.Run("server, by the client", func(t *testing.T) {
		_, theirs := refuse(t, mtls.Policy{}.ClientConfig(a, expect(a.Identity)), mtls.Policy{}.ServerConfig(b))
		if theirs == nil || !strings.Contains(theirs.Error(), "remote error: tls: bad certificate") {
			t.Errorf("server: %v", theirs)
		}
	})
	t.Run("client, by the server", func(t *testing.T) {
		trusting := mtls.Policy{}.ClientConfig(stranger, expect(b.Identity))
		trusting.VerifyConnection = nil
		// In TLS 1.3 a client is done before the server has seen its certificate; the refusal is what it reads first.
		ours, theirs := refuse(t, trusting, mtls.Policy{}.ServerConfig(b))
		var remote RemoteAlert
		if !errors.As(ours, &remote) || remote != 42 {
			t.Errorf("client: %v", ours)
		}
		if theirs == nil || !strings.Contains(theirs.Error(), "does not lead to the roots") {
			t.Errorf("server: %v", theirs)
		}
	})
}

// refuse returns what each side learns of a handshake that can't succeed, reading once if it did on the client's.
func refuse(t *testing.T, client, server *tls.Config) (ours, theirs error) {
	t.Helper()
	a, b := sockets(t)
	refused := make(chan error)
	go func() {
		_, err := drive(b, server, Server)
		refused <- err
	}()
	d, err := drive(a, client, Client)
	theirs = <-refused
	if err == nil {
		_, err = d.Read(make([]byte, 1))
	}
	return err, theirs
}

func TestOlderVersionsAreRefused(t *testing.T) {
	_, server := configs(t)
	a, b := sockets(t)
	refused := make(chan error)
	go func() {
		server.MinVersion = tls.VersionTLS12 // whatever the configuration says
		_, err := drive(b, server, Server)
		refused <- err
	}()
	old := tls.Client(a, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err := old.Handshake(); err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("client: %v", err)
	}
	if err := <-refused; err == nil || !strings.Contains(err.Error(), "unsupported versions") {
		t.Errorf("server: %v", err)
	}
	if _, err := drive(a, &tls.Config{MaxVersion: tls.VersionTLS12}, Client); err == nil || !strings.Contains(err.Error(), "TLS 1.3 is needed") {
		t.Errorf("configuration for TLS 1.2: %v", err)
	}
}

// crypto/tls would send a ticket under our Writer's keys, if only its own configuration were asked.
func TestNoTicketIsSent(t *testing.T) {
	client, server := configs(t)
	client.ClientSessionCache, server.SessionTicketsDisabled = tls.NewLRUClientSessionCache(1), false
	ours, theirs := establish(t, Server, client, server)
	exchange(t, ours, theirs, 100)
}

// A key log that a user configured, and a configuration chosen by the hello, work as with crypto/tls alone.
func TestConfigurationsKeepWorking(t *testing.T) {
	client, server := configs(t)
	var log bytes.Buffer
	client.KeyLogWriter = &log
	chosen := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.Context().Err() != nil {
			t.Error("chosen in a handshake that has ended")
		}
		return server, nil
	}}
	ours, theirs, err := both(t, client, chosen)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, ours, theirs, 100)
	if n := strings.Count(log.String(), "_TRAFFIC_SECRET_0 "); n != 2 {
		t.Errorf("%d traffic secrets logged:\n%s", n, log.String())
	}
	if client.SessionTicketsDisabled || client.KeyLogWriter != &log {
		t.Error("the caller's configuration was changed")
	}
	_, _, err = both(t, client, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("nobody home") }})
	if err == nil || !strings.Contains(err.Error(), "nobody home") {
		t.Errorf("error %v", err)
	}
}

// exchange sends random bytes both ways at once and ends both directions.
func exchange(t *testing.T, a, b stream, n int) {
	t.Helper()
	results := make(chan error, 4)
	send := func(from, to stream) {
		sent := make([]byte, n)
		_, _ = rand.Read(sent)
		go func() {
			_, err := from.Write(sent)
			results <- errors.Join(err, from.CloseWrite())
		}()
		go func() {
			got, err := io.ReadAll(to)
			if err == nil && !bytes.Equal(got, sent) {
				err = errors.New("what arrived isn't what was sent")
			}
			results <- err
		}()
	}
	send(a, b)
	send(b, a)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func echo(t *testing.T, a, b stream) {
	t.Helper()
	talk(t, a, b, "there")
	talk(t, b, a, "and back")
}

func talk(t *testing.T, from io.Writer, to io.Reader, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v, want %q", got, err, text)
	}
}
