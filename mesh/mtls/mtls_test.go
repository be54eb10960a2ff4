package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// outcome is what one side knows after a handshake and one byte from server to client.
type outcome struct {
	state tls.ConnectionState
	err   error
}

// handshake connects the two over a real socket.
func handshake(t *testing.T, serverConfig, clientConfig *tls.Config) (server, client outcome) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan outcome)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- outcome{err: err}
			return
		}
		done <- exchange(tls.Server(conn, serverConfig), func(c *tls.Conn) error {
			_, err := c.Write([]byte("x"))
			return err
		})
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// With TLS 1.3 a client learns only from its first read whether its certificate was accepted.
	client = exchange(tls.Client(conn, clientConfig), func(c *tls.Conn) error {
		_, err := c.Read(make([]byte, 1))
		return err
	})
	return <-done, client
}

func exchange(conn *tls.Conn, then func(*tls.Conn) error) outcome {
	defer conn.Close()
	err := conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err == nil {
		err = conn.Handshake()
	}
	if err == nil {
		err = then(conn)
	}
	return outcome{conn.ConnectionState(), err}
}

func wantError(t *testing.T, side string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v, want no error", side, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: error %v, want one with %q", side, err, want)
	}
}

func TestPeersProveTheirIdentities(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	cart, pay := ca.Identity("shop", "cart"), ca.Identity("shop", "pay")
	for name, intermediates := range map[string]int{"signed by the root": 0, "signed by a chain": 2} {
		t.Run(name, func(t *testing.T) {
			own := ca.Issue(testca.Spec{Identity: pay, Intermediates: intermediates})
			peer := ca.Issue(testca.Spec{Identity: cart, Intermediates: intermediates})
			server, client := handshake(t, mtls.Policy{}.ServerConfig(own), mtls.Policy{}.ClientConfig(peer, []identity.Workload{cart, pay}))
			wantError(t, "server", server.err, "")
			wantError(t, "client", client.err, "")
			for side, state := range map[string]tls.ConnectionState{"server": server.state, "client": client.state} {
				if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2" || state.ServerName != "" || state.DidResume {
					t.Errorf("%s: version %x, protocol %q, server name %q, resumed %v",
						side, state.Version, state.NegotiatedProtocol, state.ServerName, state.DidResume)
				}
			}
			if id, err := mtls.PeerIdentity(server.state); err != nil || id != cart {
				t.Errorf("server sees %v, %v; want %v", id, err, cart)
			}
			if id, err := mtls.PeerIdentity(client.state); err != nil || id != pay {
				t.Errorf("client sees %v, %v; want %v", id, err, pay)
			}
		})
	}
}

// What either side has to refuse in the other's certificate. The server's own trust domain is cluster.local.
func TestBadCertificatesAreRefusedByBothSides(t *testing.T) {
	ca, foreign := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	id := ca.Identity("shop", "cart")
	now := time.Now()
	uris := func(texts ...string) []*url.URL {
		var list []*url.URL
		for _, text := range texts {
			uri, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, uri)
		}
		return list
	}
	for _, test := range []struct {
		name                   string
		credential             *mtls.Credential
		fromClient, fromServer string // what the server says of a client with it, what the client of a server
	}{
		{"expired", ca.Issue(testca.Spec{Identity: id, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(-time.Second)}),
			"expired", "expired"},
		{"not valid yet", ca.Issue(testca.Spec{Identity: id, NotBefore: now.Add(time.Hour)}), "not yet valid", "not yet valid"},
		{"another mesh's root", foreign.Credential(id), "unknown authority", "unknown authority"},
		{"another mesh's root, by a chain", foreign.Issue(testca.Spec{Identity: id, Intermediates: 1}),
			"unknown authority", "unknown authority"},
		{"for servers only", ca.Issue(testca.Spec{Identity: id, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}),
			"incompatible key usage", ""},
		{"for clients only", ca.Issue(testca.Spec{Identity: id, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}),
			"", "incompatible key usage"},
		{"another trust domain", ca.Issue(testca.Spec{URIs: uris("spiffe://other.example/ns/shop/sa/cart")}),
			`not of trust domain "cluster.local"`, "expected spiffe://cluster.local/ns/shop/sa/cart"},
		{"another account", ca.Credential(ca.Identity("shop", "pay")), "", "expected spiffe://cluster.local/ns/shop/sa/cart"},
		{"account with the expected one as a prefix", ca.Credential(ca.Identity("shop", "cart-2")), "", "expected spiffe://"},
		{"no name", ca.Issue(testca.Spec{URIs: []*url.URL{}}), "without a SPIFFE identity", "expected spiffe://"},
		{"a URL only", ca.Issue(testca.Spec{URIs: uris("https://cluster.local/ns/shop/sa/cart")}),
			"without a SPIFFE identity", "expected spiffe://"},
		{"malformed path", ca.Issue(testca.Spec{URIs: uris("spiffe://cluster.local/shop/cart")}), "want spiffe://", "expected spiffe://"},
		{"upper-case trust domain", ca.Issue(testca.Spec{URIs: uris("spiffe://CLUSTER.local/ns/shop/sa/cart")}),
			"trust domain characters", "expected spiffe://"},
		{"signing certificate", ca.Issue(testca.Spec{Identity: id, IsCA: true}), "signing certificate", "signing certificate"},
		{"another name beside the expected one", ca.Issue(testca.Spec{
			URIs: uris("spiffe://cluster.local/ns/shop/sa/cart", "https://cart.example/")}), "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			good := ca.Credential(ca.Identity("shop", "good"))
			server, client := handshake(t, mtls.Policy{}.ServerConfig(good),
				mtls.Policy{}.ClientConfig(withRoots(test.credential, good), []identity.Workload{good.Identity}))
			wantError(t, "server", server.err, test.fromClient)
			if test.fromClient != "" {
				wantError(t, "client", client.err, "bad certificate")
			}
			_, client = handshake(t, mtls.Policy{}.ServerConfig(test.credential), mtls.Policy{}.ClientConfig(good, []identity.Workload{id}))
			if test.fromServer == "" && test.fromClient != "" {
				return // the peer accepts this one, which is not what the case is about
			}
			wantError(t, "client", client.err, test.fromServer)
		})
	}
}

// withRoots makes the credential trust what another does.
func withRoots(c, other *mtls.Credential) *mtls.Credential {
	changed := *c
	changed.Roots = other.Roots
	return &changed
}

func TestPeersThatSpeakSomethingElseAreRefused(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	credential := ca.Credential(ca.Identity("shop", "cart"))
	expected := []identity.Workload{credential.Identity}
	change := func(config *tls.Config, edit func(*tls.Config)) *tls.Config {
		edit(config)
		return config
	}
	noCertificate := func(c *tls.Config) { c.Certificates = nil }
	tls12 := func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }
	http11 := func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }
	noProtocol := func(c *tls.Config) { c.NextProtos = nil }
	keep := func(*tls.Config) {}
	for _, test := range []struct {
		name                   string
		editServer, editClient func(*tls.Config)
		serverErr, clientErr   string
	}{
		{"client without certificate", keep, noCertificate, "didn't provide a certificate", "certificate required"},
		{"client with TLS 1.2", keep, tls12, "unsupported versions", "protocol version"},
		{"server with TLS 1.2", tls12, keep, "unsupported versions", "protocol version"},
		{"client with HTTP/1.1", keep, http11, `application protocol ""`, "bad certificate"},
		{"server with HTTP/1.1", http11, keep, "unsupported application protocols", "no application protocol"},
		{"client without protocol", keep, noProtocol, `application protocol ""`, ""},
		{"server without protocol", noProtocol, keep, "", `application protocol ""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The changed side's own checks don't matter here.
			open := func(c *tls.Config) { c.VerifyConnection = nil }
			serverConfig := change(mtls.Policy{}.ServerConfig(credential), test.editServer)
			clientConfig := change(mtls.Policy{}.ClientConfig(credential, expected), test.editClient)
			if strings.HasPrefix(test.name, "client") {
				open(clientConfig)
			} else {
				open(serverConfig)
			}
			server, client := handshake(t, serverConfig, clientConfig)
			if test.serverErr != "" {
				wantError(t, "server", server.err, test.serverErr)
			}
			if test.clientErr != "" {
				wantError(t, "client", client.err, test.clientErr)
			}
		})
	}
}

func TestEmptyListOfExpectedIdentitiesNeverMatches(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	credential := ca.Credential(ca.Identity("shop", "cart"))
	for name, expected := range map[string][]identity.Workload{"nil": nil, "empty": {}, "the zero identity": {{}}} {
		t.Run(name, func(t *testing.T) {
			server, client := handshake(t, mtls.Policy{}.ServerConfig(credential), mtls.Policy{}.ClientConfig(credential, expected))
			if server.err == nil || client.err == nil {
				t.Errorf("handshake: server %v, client %v; want errors", server.err, client.err)
			}
		})
	}
}

func TestExpectedListIsFixedWhenTheConfigIsMade(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	credential := ca.Credential(ca.Identity("shop", "cart"))
	expected := []identity.Workload{credential.Identity}
	config := mtls.Policy{}.ClientConfig(credential, expected)
	expected[0] = ca.Identity("shop", "other")
	_, client := handshake(t, mtls.Policy{}.ServerConfig(credential), config)
	wantError(t, "client", client.err, "")
}

func TestConnectionsAreNeverResumed(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	credential := ca.Credential(ca.Identity("shop", "cart"))
	serverConfig := mtls.Policy{}.ServerConfig(credential)
	clientConfig := mtls.Policy{}.ClientConfig(credential, []identity.Workload{credential.Identity})
	clientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		server, client := handshake(t, serverConfig, clientConfig)
		wantError(t, "server", server.err, "")
		wantError(t, "client", client.err, "")
		if server.state.DidResume || client.state.DidResume {
			t.Error("the connection was resumed")
		}
	}
}

func TestRootRotationKeepsPeersTogether(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	before := ca.Credential(ca.Identity("shop", "cart"))
	ca.Rotate()
	between := ca.Credential(ca.Identity("shop", "pay"))
	ca.Retire()
	after := ca.Credential(ca.Identity("shop", "ship"))
	connect := func(server, client *mtls.Credential) (error, error) {
		s, c := handshake(t, mtls.Policy{}.ServerConfig(server), mtls.Policy{}.ClientConfig(client, []identity.Workload{server.Identity}))
		return s.err, c.err
	}
	// The one with both roots accepts either, but an old one accepts nobody signed by the new root.
	if _, err := connect(before, between); err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("old server with new client: %v, want the server to refuse", err)
	}
	for _, server := range []*mtls.Credential{between, after} {
		if serverErr, clientErr := connect(server, after); serverErr != nil || clientErr != nil {
			t.Errorf("server %s: %v, %v", server.Identity, serverErr, clientErr)
		}
	}
	if _, err := connect(before, after); err == nil {
		t.Error("client with the new root only accepts a server of the old one")
	}
}

func TestPeerIdentityNeedsAFinishedHandshake(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	leaf := ca.Credential(ca.Identity("shop", "cart")).Certificate.Leaf
	for name, state := range map[string]tls.ConnectionState{
		"in the midst of it": {PeerCertificates: []*x509.Certificate{leaf}},
		"no certificate":     {HandshakeComplete: true},
	} {
		if id, err := mtls.PeerIdentity(state); err == nil {
			t.Errorf("%s: %v, want an error", name, id)
		}
	}
}

func BenchmarkServerConfig(b *testing.B) {
	ca := testca.New(b, "cluster.local")
	credential := ca.Credential(ca.Identity("shop", "cart"))
	b.ReportAllocs()
	var config *tls.Config
	for b.Loop() {
		config = mtls.Policy{}.ServerConfig(credential)
	}
	runtime.KeepAlive(config)
}
