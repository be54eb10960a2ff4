package daemon

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// drain moves proxies to other replicas before the end, not all at once: each finds its stream ended at some moment of
// the drain time.
type drain struct {
	over  time.Duration
	begun context.Context
	begin context.CancelFunc
}

// stragglers is how long calls may take that haven't ended with the drain time.
const stragglers = 2 * time.Second

func newDrain(over time.Duration) *drain {
	d := &drain{over: over}
	d.begun, d.begin = context.WithCancel(context.Background())
	return d
}

// draining tells whether it has begun.
func (d *drain) draining() bool { return d.begun.Err() != nil }

// errStopping tells a proxy to come back, to whoever then answers.
var errStopping = status.Error(codes.Unavailable, "this control plane is stopping: connect again, to another one")

// stream ends a proxy's stream in its time. Other calls end by themselves.
func (d *drain) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if !strings.HasPrefix(info.FullMethod, "/"+discoveryv3.AggregatedDiscoveryService_ServiceDesc.ServiceName+"/") {
		return handle(server, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	stop := context.AfterFunc(d.begun, func() {
		if d.over > 0 {
			time.AfterFunc(rand.N(d.over), cancel)
		} else {
			cancel()
		}
	})
	defer stop()
	err := handle(server, bounded{stream, ctx})
	if d.draining() && ctx.Err() != nil {
		return errStopping
	}
	return err
}

// bounded is a stream with a context that ends earlier.
type bounded struct {
	grpc.ServerStream
	ctx context.Context
}

// Context ends with the stream's time.
func (b bounded) Context() context.Context { return b.ctx }

// stop ends the server: it accepts nothing new, and each connection is closed with its last stream.
func (d *drain) stop(server *grpc.Server) {
	d.begin()
	timer := time.AfterFunc(d.over+stragglers, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}
