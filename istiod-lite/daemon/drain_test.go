package daemon

import (
	"net"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// waiting serves streams that say one thing and then wait for their end.
type waiting struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
}

func (waiting) DeltaAggregatedResources(w discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if err := w.Send(new(discoveryv3.DeltaDiscoveryResponse)); err != nil {
		return err
	}
	<-w.Context().Done()
	return status.FromContextError(w.Context().Err()).Err()
}

// TestProxiesAreMovedToOthersBeforeTheEnd within the drain time, and told to connect again.
func TestProxiesAreMovedToOthersBeforeTheEnd(t *testing.T) {
	d := newDrain(300 * time.Millisecond)
	server := grpc.NewServer(grpc.StreamInterceptor(d.stream))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, waiting{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	var streams []discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	for range 8 {
		connection, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	if d.draining() {
		t.Error("draining before the end")
	}
	began := time.Now()
	d.stop(server)
	if took := time.Since(began); took > d.over+stragglers {
		t.Errorf("took %s", took)
	}
	for _, stream := range streams {
		if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "connect again") {
			t.Errorf("stream ended with %v", err)
		}
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if connection, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		connection.Close()
		t.Error("connected to a control plane that has ended")
	}
}
