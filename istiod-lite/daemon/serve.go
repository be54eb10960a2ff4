package daemon

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
	caapi "github.com/tulle-mesh/tulle/mesh/api/ca"
)

// What anybody who reaches the port can make the control plane hold.
const (
	// maxConnections is more than the nodes of the largest cluster. Those beyond it wait.
	maxConnections = 8192
	// maxStreams is per connection. A ztunnel has one stream, and asks for a few certificates at a time.
	maxStreams = 64
	// idle is after how long a connection without a call is closed.
	idle = time.Minute
	// maxMessage bounds a message, in bytes: a proxy that comes back sends the versions of all that it knows. Only those
	// of proven callers are read.
	maxMessage = 16 << 20
)

func listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for proxies: %w", err)
	}
	return netutil.LimitListener(listener, maxConnections), nil
}

// serve makes the server of proxies.
func (d *Daemon) serve(authority *ca.Authority, serving *ca.Serving, registry *prometheus.Registry) {
	d.rpc = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(serving.Config())),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: idle,
			MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(16<<10), // a token has at most half of it
		grpc.InTapHandle(d.admit),
		grpc.StreamInterceptor(d.drain.stream),
	)
	d.tokens = ca.NewTokens(d.cfg.TokenKey)
	d.pusher = push.NewServer(push.Config{
		Log: d.resource, Authenticate: caller, TrustedNodeAccounts: d.cfg.TrustedNodeAccounts,
		Registry: registry, Logger: d.log.With("scope", "push"),
	})
	d.signer = ca.NewServer(ca.Config{
		Authority: authority, TrustDomain: d.cfg.TrustDomain, TrustedNodeAccounts: d.cfg.TrustedNodeAccounts,
		Runs: d.runs, Registry: registry, Logger: d.log.With("scope", "ca"),
	})
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(d.rpc, d.pusher)
	caapi.RegisterIstioCertificateServiceServer(d.rpc, d.signer)
}

// Before everything was read once, no proxy may be told anything: the rest would look deleted.
var errNotReady = status.Error(codes.Unavailable, "the control plane has not read its objects yet")

// admit decides about a call by its headers, before any of its messages is read, and puts the caller into its context.
func (d *Daemon) admit(ctx context.Context, call *tap.Info) (context.Context, error) {
	if !d.pipeline.ready.Load() {
		return ctx, errNotReady
	}
	caller, err := d.tokens.Authenticate(ctx)
	switch {
	case err == nil:
		return ca.WithCaller(ctx, caller), nil
	case strings.HasPrefix(call.FullMethodName, "/"+caapi.IstioCertificateService_ServiceDesc.ServiceName+"/"):
		return ctx, d.signer.Unauthenticated(err)
	}
	d.log.Warn("stream refused: caller is not authenticated", "scope", "push", "err", err)
	return ctx, errUnauthenticated
}

var errUnauthenticated = status.Error(codes.Unauthenticated, "authentication failure")

// caller is whom admit has let in.
func caller(ctx context.Context) (push.Caller, error) {
	caller, known := ca.CallerOf(ctx)
	if !known {
		return push.Caller{}, errUnauthenticated
	}
	return push.Caller(caller), nil
}
