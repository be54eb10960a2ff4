package push

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// serve runs a server over the network; what it returns opens streams to it.
func serve(t *testing.T, s *Server) func() discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer(Codec())
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(rpc, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = rpc.Serve(listener) }()
	t.Cleanup(func() { rpc.Stop(); <-done; s.Wait() })
	return func() discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
		connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(200<<20)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { connection.Close() })
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		t.Cleanup(cancel)
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, Node: &corev3.Node{Id: "ztunnel~1"}}); err != nil {
			t.Fatal(err)
		}
		return stream
	}
}

func TestOneThatStopsReadingIsCutOffAndOthersGoOn(t *testing.T) {
	log := NewLog()
	server := NewServer(Config{
		Log: log, Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler), TrustedNodeAccounts: []string{"a/b"},
		Authenticate: func(context.Context) (Caller, error) { return Caller{"a", "b", "node1", "", "10.0.0.1"}, nil },
	})
	server.patience = 6 * time.Second // a busy machine with the race detector takes two for what is sent
	open := serve(t, server)
	// More than the windows of HTTP/2 and the buffers of sockets hold.
	publish(t, log, "w/large="+strings.Repeat("x", 16<<20))
	stuck, healthy := open(), open()
	take := func(want string) {
		t.Helper()
		response, err := healthy.Recv()
		if err != nil || len(response.Resources) != 1 || response.Resources[0].Name != want {
			t.Fatalf("want %s, have %v", want, err)
		}
		if err := healthy.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResponseNonce: response.Nonce}); err != nil {
			t.Fatal(err)
		}
	}
	take("w/large")
	for deadline := time.Now().Add(30 * time.Second); len(server.Status()) != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not cut off")
		}
	}
	var err error
	for err == nil { // what was under way comes before the reason
		_, err = stuck.Recv()
	}
	if status.Code(err) != codes.Aborted {
		t.Errorf("cut off with %v", err)
	}
	publish(t, log, "w/small=1")
	take("w/small")
}

// A proxy that comes back leaves streams behind that nobody knows to be dead yet; who opens more doesn't take memory for all of them. Whose
// token is of no pod has no more at one address, and takes none of a node's proxy there.
func TestTheOldestStreamOfOneMakesWayForItsNewest(t *testing.T) {
	for name, greedy := range map[string]Caller{
		"pod":                 {"a", "b", "node1", "ztunnel-1", ""},
		"account without pod": {"a", "b", "node1", "", "10.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			var caller atomic.Pointer[Caller]
			server := NewServer(Config{
				Log: NewLog(), Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler), TrustedNodeAccounts: []string{"a/b"},
				Authenticate: func(context.Context) (Caller, error) { return *caller.Load(), nil },
			})
			open := serve(t, server)
			as := func(who Caller) discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
				t.Helper()
				caller.Store(&who)
				stream := open()
				if _, err := stream.Recv(); err != nil {
					t.Fatalf("%+v: %v", who, err)
				}
				return stream
			}
			others := []discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient{
				as(Caller{"a", "b", "node1", "ztunnel-2", ""}), as(Caller{"a", "b", "node1", "", "10.0.0.2"}),
			}
			streams := make([]discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, maxOpened+2)
			for i := range streams {
				streams[i] = as(greedy)
			}
			for _, old := range streams[:2] {
				if _, err := old.Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), greedy.who()) {
					t.Errorf("an old stream: %v", err)
				}
			}
			for i, stays := range append(others, streams[2]) {
				stays.CloseSend()
				if _, err := stays.Recv(); err != io.EOF {
					t.Errorf("of those that may stay, %d: %v", i, err)
				}
			}
		})
	}
}

func TestTheLargestRequestIsCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	server := NewServer(Config{
		Log: NewLog(), Registry: registry, Logger: slog.New(slog.DiscardHandler), TrustedNodeAccounts: []string{"a/b"},
		Authenticate: func(context.Context) (Caller, error) { return Caller{"a", "b", "node1", "ztunnel-1", ""}, nil },
	})
	stream := serve(t, server)()
	large := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: Authorization, ResourceNamesSubscribe: []string{strings.Repeat("x", maxName)}}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []*discoveryv3.DeltaDiscoveryRequest{{TypeUrl: Address, ResponseNonce: first.Nonce}, large} {
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.Recv(); err != nil { // so both were heard
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "pilot_xds_recv_max" {
			if got, want := family.GetMetric()[0].GetGauge().GetValue(), float64(proto.Size(large)); got != want {
				t.Errorf("%v bytes, want %v", got, want)
			}
			return
		}
	}
	t.Error("there is no such metric")
}
