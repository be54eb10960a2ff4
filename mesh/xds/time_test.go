package xds_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/mesh/xds"
)

// script is a server that ends each stream as the script says, in order, and then keeps one open.
type script struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	ends []error
	last map[int]time.Duration // how long streams last, by number; the others end at once
	push bool                  // they bring something before

	mu     sync.Mutex
	opened []time.Time
}

func (s *script) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s.mu.Lock()
	n := len(s.opened)
	s.opened = append(s.opened, time.Now())
	s.mu.Unlock()
	if n < len(s.ends) {
		if s.push {
			if err := stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: policies, Nonce: "1"}); err != nil {
				return err
			}
		}
		time.Sleep(s.last[n])
		return s.ends[n]
	}
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if request.GetResponseNonce() == "" {
			if err := stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: request.GetTypeUrl(), Nonce: "1"}); err != nil {
				return err
			}
		}
	}
}

// window keeps gRPC from hiding who waits for whom: it would grow its windows to megabytes.
const window = 1 << 16

// serve runs the server on a pipe and returns a channel to it.
func serve(t *testing.T, s discoveryv3.AggregatedDiscoveryServiceServer) *grpc.ClientConn {
	t.Helper()
	pipe := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, s)
	done := make(chan error)
	go func() { done <- server.Serve(pipe) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return channel(t, pipe.DialContext)
}

func channel(t *testing.T, dial func(context.Context) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///pipe", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestStreamsThatEndAtOnceBackOffHoweverTheyEnd(t *testing.T) {
	for name, end := range map[string]error{
		"refused": status.Error(codes.PermissionDenied, "not you"), "complete": nil, "unknown": status.Error(codes.Unknown, "proxy restarted"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{ends: slices.Repeat([]error{end}, 12)}
				client, stop := run(t, serve(t, s), new(holder), policies, addresses)
				defer stop()
				<-client.Ready()
				want := 10 * time.Millisecond
				for i := range s.ends {
					s.expectPause(t, i, want)
					want = min(2*want, 15*time.Second)
				}
			})
		})
	}
}

// A control plane that restarts, or has its clients go elsewhere now and then, costs no time.
func TestStreamsThatWorkedAreOpenedAnewAtOnce(t *testing.T) {
	for name, end := range map[string]error{"complete": nil, "unknown": status.Error(codes.Unknown, "proxy restarted"), "canceled": status.Error(codes.Canceled, "")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{ends: slices.Repeat([]error{end}, 8), push: true}
				client, stop := run(t, serve(t, s), new(holder), policies, addresses)
				defer stop()
				<-client.Ready()
				for i := range s.ends {
					s.expectPause(t, i, 10*time.Millisecond)
				}
			})
		})
	}
}

// One that takes its time to refuse us, because whoever it asks is overloaded, isn't asked the more often for it.
func TestSlowRefusalsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{ends: slices.Repeat([]error{status.Error(codes.Unauthenticated, "token review timed out")}, 8), last: map[int]time.Duration{}}
		for i := range s.ends {
			s.last[i] = 5 * time.Second
		}
		client, stop := run(t, serve(t, s), new(holder), policies, addresses)
		defer stop()
		<-client.Ready()
		for i := range s.ends {
			s.expectPause(t, i, 10*time.Millisecond<<i)
		}
	})
}

func TestStreamThatLastedIsOpenedAnewAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{ends: slices.Repeat([]error{nil}, 5), last: map[int]time.Duration{3: time.Minute}}
		client, stop := run(t, serve(t, s), new(holder), policies, addresses)
		defer stop()
		<-client.Ready()
		s.expectPause(t, 2, 40*time.Millisecond)
		s.expectPause(t, 3, 10*time.Millisecond)
		s.expectPause(t, 4, 10*time.Millisecond)
	})
}

// expectPause checks the time between a stream's end and the next one, give or take a fifth.
func (s *script) expectPause(t *testing.T, stream int, want time.Duration) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.opened[stream+1].Sub(s.opened[stream]) - s.last[stream]; got < want*8/10 || got > want*12/10 {
		t.Errorf("stream %d came %s after the end of the one before, want %s", stream+1, got, want)
	}
}

func TestSilentControlPlaneIsWaitedForWithoutBusyWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(script)
		client, stop := run(t, serve(t, s), new(holder), policies, addresses)
		<-client.Ready()
		time.Sleep(24 * time.Hour)
		stop()
		if len(s.opened) != 1 {
			t.Errorf("%d streams in a day, want one", len(s.opened))
		}
	})
}

func TestUnreachableControlPlaneIsReportedWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(holder)
		conn := channel(t, func(context.Context) (net.Conn, error) { return nil, errors.New("nobody listens") })
		_, stop := run(t, conn, h, policies, addresses)
		time.Sleep(time.Minute)
		stop()
		if n := len(h.events); n < 5 || n > 6 {
			t.Errorf("%d reports in a minute, want one each ten seconds", n)
		}
		for _, e := range h.events {
			if e.Kind != xds.ConnectionError || !strings.Contains(e.Err.Error(), "nobody listens") {
				t.Errorf("event = %+v, want a connection error with its reason", e)
			}
		}
	})
}

// talker is a server that never reads while it writes, nor the reverse.
type talker struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	streams int
}

func (s *talker) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s.streams++
	for range 3 { // subscriptions
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		push := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: request.GetTypeUrl(), Nonce: "1"}
		for i := range 4_000 {
			name := fmt.Sprintf("Kubernetes//Pod/a-namespace-with-a-long-name/%s-%d", strings.Repeat("x", 40), i)
			push.Resources = append(push.Resources, &discoveryv3.Resource{
				Name: name, Version: "0123456789abcdef", Resource: &anypb.Any{TypeUrl: request.GetTypeUrl()},
			})
		}
		for range 2 {
			if err := stream.Send(push); err != nil {
				return err
			}
		}
	}
	for range 6 { // acknowledgements
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	if s.streams == 1 {
		return status.Error(codes.Unknown, "again")
	}
	<-stream.Context().Done()
	return nil
}

func TestLargeMeshReconnectsToServerThatDoesNotReadWhileItWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := new(talker), new(holder)
		client, stop := run(t, serve(t, s), h, policies, addresses, "type.googleapis.com/third")
		<-client.Ready()
		time.Sleep(time.Minute)
		stop()
		if s.streams != 2 || len(h.pushes) != 12 {
			t.Errorf("%d pushes on %d streams, want 12 on 2: %v", len(h.pushes), s.streams, h.events)
		}
	})
}
