package daemon

import (
	"context"
	"fmt"
	"net"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
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
	// window is how much of a call is taken in that nobody reads yet, in bytes.
	window = 64 << 10
	// maxUnproven is how many calls may wait until it is known whose they are. Those beyond it are told to come again.
	maxUnproven = 1024
)

func listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for proxies: %w", err)
	}
	return netutil.LimitListener(listener, maxConnections), nil
}

// serve makes the server of proxies.
func (d *Daemon) serve(serving *ca.Serving) {
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
		grpc.StaticStreamWindowSize(window),
		grpc.MaxHeaderListSize(16<<10), // a token has at most three quarters of it
		grpc.InTapHandle(d.early),
		grpc.ChainStreamInterceptor(d.admit, d.drain.stream),
		push.Codec(),
	)
	pods := ca.Pods{Find: d.find, Runs: d.runs}
	d.pusher = push.NewServer(push.Config{
		Log:                 d.resource,
		Authenticate:        func(ctx context.Context) (push.Caller, error) { return d.caller(ctx, pods) },
		TrustedNodeAccounts: d.cfg.TrustedNodeAccounts, Waypoint: d.waypoint, Registry: d.registry, Logger: d.log.With("scope", "push"),
	})
	d.signer = ca.NewServer(ca.Config{
		Authority: d.authority.live, TrustDomains: d.trustDomains,
		TrustedNodeAccounts: d.cfg.TrustedNodeAccounts, Pods: pods,
		DefaultTTL: d.cfg.DefaultCertTTL, MaxTTL: d.cfg.MaxCertTTL,
		Registry: d.registry, Logger: d.log.With("scope", "ca"),
	})
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(d.rpc, d.pusher)
	d.signer.Register(d.rpc)
}

// Before everything was read once, no proxy may be told anything: the rest would look deleted.
var errNotReady = status.Error(codes.Unavailable, "the control plane has not read its objects yet")

// early turns calls away until everything was read. It must not block: it stops a whole connection.
func (d *Daemon) early(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if !d.pipeline.ready.Load() {
		return ctx, errNotReady
	}
	return ctx, nil
}

// admit decides about a call by its headers, before any of its messages is read, and puts the caller into its context.
func (d *Daemon) admit(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	caller, err := d.prove(stream.Context())
	switch {
	case err == nil:
		return handle(server, bounded{stream, ca.WithCaller(stream.Context(), caller)})
	case ca.Serves(info.FullMethod):
		return d.signer.Refuse(stream.Context(), err)
	}
	d.log.Warn("stream refused: caller is not authenticated", "scope", "push", "err", err)
	return ca.Opaque(err, "authentication failure")
}

// prove asks whose call it is, unless too many others wait for the same.
func (d *Daemon) prove(ctx context.Context) (ca.Caller, error) {
	select {
	case d.unproven <- struct{}{}:
		defer func() { <-d.unproven }()
		return d.callers.Authenticate(ctx)
	default:
		return ca.Caller{}, fmt.Errorf("%d calls wait for their callers to be authenticated: %w", maxUnproven, ca.ErrUnavailable)
	}
}

// caller is whom admit has let in, with the node that it runs on.
func (d *Daemon) caller(ctx context.Context, pods ca.Pods) (push.Caller, error) {
	caller, known := ca.CallerOf(ctx)
	if !known {
		return push.Caller{}, status.Error(codes.Unauthenticated, "authentication failure")
	}
	node, err := pods.Node(caller)
	if err != nil {
		d.log.Warn("stream refused", "scope", "push", "account", caller.Account(), "err", err)
		return push.Caller{}, ca.Opaque(err, "authentication failure")
	}
	return push.Caller{Namespace: caller.Namespace, ServiceAccount: caller.ServiceAccount, Node: node, Pod: caller.Pod}, nil
}

// find tells what is known of a pod that hasn't ended.
func (d *Daemon) find(namespace, name string) (pod ca.Pod, known bool) {
	d.model.View(func() {
		if found := d.model.Pod(model.Name{Namespace: namespace, Name: name}); found != nil && !found.Ended {
			pod, known = ca.Pod{UID: found.UID, Node: found.Node, ServiceAccount: found.ServiceAccount}, true
		}
	})
	return pod, known
}

// trustDomains are that of the mesh and then its aliases.
func (d *Daemon) trustDomains() (domains []string) {
	d.model.View(func() {
		domains = append(domains, d.model.TrustDomain())
		if mesh := d.model.MeshConfig(); mesh != nil {
			domains = append(domains, mesh.TrustDomainAliases...)
		}
	})
	return domains
}

func (d *Daemon) runs(node, namespace, serviceAccount string) (runs bool) {
	d.model.View(func() { runs = d.model.Runs(node, model.Name{Namespace: namespace, Name: serviceAccount}) })
	return runs
}
