package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

func TestClientsOfOtherTrustDomainsAreAcceptedByTheList(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	own := ca.Credential(ca.Identity("shop", "own"))
	for _, test := range []struct {
		name, peer string
		accepted   []string
		want       string
	}{
		{"its own, without a list", "cluster.local", nil, ""},
		{"its own, with a list", "cluster.local", []string{"east.example"}, ""},
		{"one of the list", "west.example", []string{"east.example", "west.example"}, ""},
		{"another, without a list", "west.example", nil, `not of trust domain "cluster.local"`},
		{"another, with a list", "north.example", []string{"east.example", "west.example"}, "neither of trust domain \"cluster.local\" nor of those accepted beside it: east.example, west.example"},
		{"a longer one than listed", "east.example.org", []string{"east.example"}, "neither of trust domain"},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, err := identity.New(test.peer, "shop", "cart")
			if err != nil {
				t.Fatal(err)
			}
			peer := ca.Credential(id)
			server, _ := handshake(t, mtls.Policy{TrustDomains: test.accepted}.ServerConfig(own), mtls.Policy{}.ClientConfig(peer, []identity.Workload{own.Identity}))
			wantError(t, "server", server.err, test.want)
		})
	}
}

// The list is for who may call. Whoever is called has to be the very one: the same account of another trust domain, whose
// owner may sign for any account there, is somebody else.
func TestListOfTrustDomainsIsNoListOfAliases(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	own := ca.Credential(ca.Identity("shop", "own"))
	id, err := identity.New("west.example", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	west := ca.Credential(id)
	policy := mtls.Policy{TrustDomains: []string{"west.example"}}
	connect := func(expected identity.Workload) error {
		_, client := handshake(t, policy.ServerConfig(west), policy.ClientConfig(own, []identity.Workload{expected}))
		return client.err
	}
	wantError(t, "expected in the own trust domain", connect(ca.Identity("shop", "cart")), "peer is")
}

func TestPostQuantumPolicy(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	own := ca.Credential(ca.Identity("shop", "own"))
	expected := []identity.Workload{own.Identity}
	only := func(config *tls.Config, curve tls.CurveID) *tls.Config {
		config = config.Clone()
		config.CurvePreferences = []tls.CurveID{curve}
		return config
	}
	relaxed, strict := mtls.Policy{}, mtls.Policy{PostQuantum: true}
	for _, test := range []struct {
		name           string
		server, client *tls.Config
		want           tls.CurveID // 0: refused
	}{
		{"both by default", relaxed.ServerConfig(own), relaxed.ClientConfig(own, expected), tls.X25519MLKEM768},
		{"both strict", strict.ServerConfig(own), strict.ClientConfig(own, expected), tls.X25519MLKEM768},
		{"strict server, default client", strict.ServerConfig(own), relaxed.ClientConfig(own, expected), tls.X25519MLKEM768},
		{"default server, client without", relaxed.ServerConfig(own), only(relaxed.ClientConfig(own, expected), tls.X25519), tls.X25519},
		{"default server, client with P-256 only", relaxed.ServerConfig(own), only(relaxed.ClientConfig(own, expected), tls.CurveP256), tls.CurveP256},
		{"strict server, client without", strict.ServerConfig(own), only(relaxed.ClientConfig(own, expected), tls.X25519), 0},
		{"strict client, server without", only(relaxed.ServerConfig(own), tls.X25519), strict.ClientConfig(own, expected), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, client := handshake(t, test.server, test.client)
			if test.want == 0 {
				if server.err == nil || client.err == nil {
					t.Errorf("server %v, client %v; want errors", server.err, client.err)
				}
				return
			}
			wantError(t, "server", server.err, "")
			wantError(t, "client", client.err, "")
			if got := server.state.CurveID; got != test.want {
				t.Errorf("keys were exchanged by %s, want %s", got, test.want)
			}
		})
	}
}

// BenchmarkHandshake compares a tunnel's handshake with what crypto/tls does by itself for the same certificates: the
// policy's share is the difference. Both ends run here.
func BenchmarkHandshake(b *testing.B) {
	ca := testca.New(b, "cluster.local")
	own := ca.Credential(ca.Identity("shop", "own"))
	expected := []identity.Workload{own.Identity}
	policy := mtls.Policy{TrustDomains: []string{"east.example"}, Revocations: mtls.NewRevocations("/none")}
	plain := func() *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own.Certificate}, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: own.Roots,
			InsecureSkipVerify: true, // there is no host name in these certificates
			VerifyConnection: func(state tls.ConnectionState) error {
				_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: own.Roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				return err
			},
		}
	}
	plainServer := plain()
	plainServer.VerifyConnection = nil // ClientAuth does it
	for _, kind := range []struct {
		name           string
		server, client *tls.Config
	}{
		{"of=tunnel", policy.ServerConfig(own), policy.ClientConfig(own, expected)},
		{"of=crypto-tls", plainServer, plain()},
	} {
		b.Run(kind.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := shake(kind.server.Clone(), kind.client.Clone()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
