package certs_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/mesh/api/ca"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
)

// service is a certificate service as a control plane runs it. It signs for the impersonated identity, or for self.
type service struct {
	ca.UnimplementedIstioCertificateServiceServer
	authority *testca.CA
	self      identity.Workload

	mu      sync.Mutex
	asked   []*ca.IstioCertificateRequest
	refusal error
	spoil   func(chain []string) []string
}

func (s *service) CreateCertificate(ctx context.Context, ask *ca.IstioCertificateRequest) (*ca.IstioCertificateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, ask)
	if s.refusal != nil {
		return nil, s.refusal
	}
	id := s.self
	if name := ask.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue(); name != "" {
		var err error
		if id, err = identity.Parse(name); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	chain, err := s.authority.Sign(ctx, id, ask.GetCsr(), time.Duration(ask.GetValidityDuration())*time.Second)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if s.spoil != nil {
		chain = s.spoil(chain)
	}
	return &ca.IstioCertificateResponse{CertChain: chain}, nil
}

// serve runs the service and returns a connection to it.
func serve(t *testing.T, s *service) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	ca.RegisterIstioCertificateServiceServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil {
			t.Errorf("certificate service: %v", err)
		}
	})
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// run starts the manager and ends it with the test.
func run(t *testing.T, m *certs.Manager) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestCertificateFromAControlPlane(t *testing.T) {
	authority := testca.New(t, "cluster.local")
	cart, node := authority.Identity("shop", "cart"), authority.Identity("istio-system", "ztunnel")
	for _, test := range []struct {
		name         string
		impersonate  bool
		id           identity.Workload
		impersonated string
	}{
		{"a node's proxy asks for a pod", true, cart, cart.String()},
		{"a workload asks for itself", false, node, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &service{authority: authority, self: node}
			m := certs.NewManager(certs.NewIstioCA(serve(t, s), test.impersonate), slog.New(slog.DiscardHandler), 24*time.Hour)
			run(t, m)
			credential, err := m.Get(within(t), test.id)
			if err != nil {
				t.Fatal(err)
			}
			if credential.Identity != test.id || credential.RootsPEM != authority.RootsPEM() {
				t.Errorf("credential of %v, roots of the authority: %v", credential.Identity, credential.RootsPEM == authority.RootsPEM())
			}
			ask := s.asked[0]
			if ask.GetValidityDuration() != 86400 {
				t.Errorf("asked for %d s, want 86400", ask.GetValidityDuration())
			}
			if (ask.GetMetadata() != nil) != test.impersonate {
				t.Errorf("metadata %v", ask.GetMetadata())
			}
			if got := ask.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue(); got != test.impersonated {
				t.Errorf("impersonated identity %q, want %q", got, test.impersonated)
			}
		})
	}
}

func TestAnswersThatAreNotWhatWasAskedForAreErrors(t *testing.T) {
	authority := testca.New(t, "cluster.local")
	cart, pay := authority.Identity("shop", "cart"), authority.Identity("shop", "pay")
	other := authority.Credential(cart)
	for _, test := range []struct {
		name        string
		impersonate bool
		refusal     error
		spoil       func([]string) []string
		want        string
	}{
		{"refused", true, status.Error(codes.Unauthenticated, "request impersonation authentication failure"), nil,
			"request impersonation authentication failure"},
		{"empty", true, nil, func([]string) []string { return nil }, "0 elements"},
		{"leaf without roots", true, nil, func(c []string) []string { return c[:1] }, "1 elements"},
		{"leaf of another key", true, nil, func(c []string) []string { return []string{other.ChainPEM[0], c[1]} }, "another key"},
		{"another identity", false, nil, nil, "answered for " + pay.String()},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &service{authority: authority, self: pay, refusal: test.refusal, spoil: test.spoil}
			m := certs.NewManager(certs.NewIstioCA(serve(t, s), test.impersonate), slog.New(slog.DiscardHandler), time.Hour)
			run(t, m)
			_, err := m.Get(within(t), cart)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), cart.String()) {
				t.Errorf("Get: %v, want an error with %q and the identity", err, test.want)
			}
		})
	}
}

func TestControlPlaneThatIsNotThereIsAnErrorAtOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := certs.NewManager(certs.NewIstioCA(conn, true), slog.New(slog.DiscardHandler), time.Hour)
	run(t, m)
	id, err := identity.New("cluster.local", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Get(within(t), id); status.Code(err) != codes.Unavailable {
		t.Errorf("Get: %v, want Unavailable", err)
	}
}
