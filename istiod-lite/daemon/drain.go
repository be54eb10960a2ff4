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
// the drain time, but for its first quarter, after which nobody is sent here any more.
type drain struct {
	over  time.Duration
	begun context.Context
	begin context.CancelFunc
	ended context.Context // nobody is served any more
	end   context.CancelFunc
}

// stragglers is how long calls may take that haven't ended with the drain time.
const stragglers = 2 * time.Second

func newDrain(over time.Duration) *drain {
	d := &drain{over: over}
	d.begun, d.begin = context.WithCancel(context.Background())
	d.ended, d.end = context.WithCancel(context.Background())
	return d
}

// draining tells whether it has begun.
func (d *drain) draining() bool { return d.begun.Err() != nil }

// first is how long all goes on as before: until nodes have heard that this replica isn't ready, they send to it who connects.
func (d *drain) first() time.Duration { return d.over / 4 }

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
			time.AfterFunc(d.first()+rand.N(d.over-d.first()), cancel)
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

// stop ends the server: after a while it accepts nothing new, and each connection is closed with its last stream.
func (d *drain) stop(server *grpc.Server) {
	d.begin()
	timer := time.AfterFunc(d.over+stragglers, server.Stop)
	defer timer.Stop()
	time.Sleep(d.first())
	server.GracefulStop()
	d.end()
}
