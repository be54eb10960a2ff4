// Package fakeistiod is a control plane for tests: a real gRPC server with delta xDS and the certificate service, in
// the test's process.
package fakeistiod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	capb "github.com/tulle-mesh/tulle/mesh/api/ca"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
)

// Server is the control plane. New makes one. All methods but Stop and Restart may be called from any goroutine.
type Server struct {
	tb       testing.TB
	ca       *testca.CA // nil: no certificates
	tls      credentials.TransportCredentials
	rootFile string
	address  string
	grpc     *grpc.Server  // nil while stopped
	served   chan struct{} // closed when grpc is done

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced with every change of the following
	resources map[string]map[string]*discoveryv3.Resource
	streams   map[*stream]bool
	acks      map[string]int
	nacks     map[string][]string
	opened    []*Stream
	signed    []metadata.MD
}

// Stream is what a client said when it opened a stream.
type Stream struct {
	Node     *corev3.Node
	Types    []string                     // in the order of their subscription
	Names    []string                     // subscribed to by name, of all types
	Versions map[string]map[string]string // that the client said to have, by type and name
}

// New starts a server on a loopback port, for the name istiod.istio-system.svc too. It runs until the test ends. ca may
// be nil where no certificates are asked for; it is not what the server's own certificate leads to.
func New(tb testing.TB, ca *testca.CA) *Server {
	tb.Helper()
	cert, rootPEM := selfSigned(tb)
	s := &Server{
		tb: tb, ca: ca, tls: credentials.NewServerTLSFromCert(&cert), address: "127.0.0.1:0",
		rootFile:  filepath.Join(tb.TempDir(), "root-cert.pem"),
		changed:   make(chan struct{}),
		resources: map[string]map[string]*discoveryv3.Resource{},
		acks:      map[string]int{}, nacks: map[string][]string{}, streams: map[*stream]bool{},
	}
	if err := os.WriteFile(s.rootFile, rootPEM, 0o600); err != nil {
		tb.Fatal(err)
	}
	s.Restart()
	tb.Cleanup(s.Stop)
	return s
}

// Address returns https://IP:port, which stays the same over restarts.
func (s *Server) Address() string { return "https://" + s.address }

// RootFile returns the path of the certificate that clients have to trust.
func (s *Server) RootFile() string { return s.rootFile }

// Stop breaks all connections and takes no new ones. The resources stay.
func (s *Server) Stop() {
	if s.grpc != nil {
		s.grpc.Stop()
		<-s.served
		s.grpc = nil
	}
}

// Restart stops the server if it runs and starts it again on the same port.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		s.tb.Fatalf("fake istiod: %v", err)
	}
	s.address = listener.Addr().String()
	server := grpc.NewServer(grpc.Creds(s.tls), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(200<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, discovery{server: s})
	if s.ca != nil {
		capb.RegisterIstioCertificateServiceServer(server, authority{server: s})
	}
	served := make(chan struct{})
	s.grpc, s.served = server, served
	go func() {
		defer close(served)
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			s.tb.Errorf("fake istiod: %v", err)
		}
	}()
}

// Set adds or replaces resources: addresses, workloads, services, authorizations, and those about requests. Clients get them in one push per
// type, authorizations first.
func (s *Server) Set(resources ...proto.Message) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	touched := map[string][]string{}
	for _, message := range resources {
		resource := wrap(s.tb, message)
		typeURL := resource.GetResource().GetTypeUrl()
		if s.resources[typeURL] == nil {
			s.resources[typeURL] = map[string]*discoveryv3.Resource{}
		}
		s.resources[typeURL][resource.GetName()] = resource
		touched[typeURL] = append(touched[typeURL], resource.GetName())
	}
	s.pushAllLocked(touched)
}

// Remove takes resources away by name.
func (s *Server) Remove(typeURL string, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		delete(s.resources[typeURL], name)
	}
	s.pushAllLocked(map[string][]string{typeURL: names})
}

// Acks returns how many pushes of a type were acknowledged.
func (s *Server) Acks(typeURL string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acks[typeURL]
}

// Nacks returns the reasons of all pushes of a type that were refused.
func (s *Server) Nacks(typeURL string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.nacks[typeURL])
}

// Opened returns what the clients said who opened a stream, in order. Take it when they are in Sync.
func (s *Server) Opened() []*Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.opened)
}

// Signed returns the headers of all calls for a certificate.
func (s *Server) Signed() []metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.signed)
}

// Sync waits until at least so many clients are connected and all of them have subscribed to addresses and
// authorizations and answered everything that was Set.
func (s *Server) Sync(ctx context.Context, clients int) error {
	for {
		s.mu.Lock()
		done, changed := len(s.streams) >= clients, s.changed
		for st := range s.streams {
			done = done && len(st.known) >= 2 && st.unanswered == 0
		}
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("fake istiod: %w", ctx.Err())
		}
	}
}

func (s *Server) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}
