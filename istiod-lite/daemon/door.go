package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// limits are what anybody who reaches the port can make the control plane hold, and for how long.
type limits struct {
	// connections may be open at a time. For one more, one that proved nobody has to go; if all did, it waits.
	connections int
	// unproven is how many calls may wait until it is known whose they are. Those beyond it are told to come again.
	unproven int
	// greeting is how long a connection may take to be one of HTTP/2 over TLS.
	greeting time.Duration
	// idle is after how long a connection without a call is closed.
	idle time.Duration
	// A connection that is older than age is left by its proxy for another, and is closed after grace more.
	age, grace time.Duration
	// proof is after how long at most the pod of a stream's caller has to be there still. Every so many times, which is reviews, its
	// token is reviewed as well, which the API server pays for.
	proof   time.Duration
	reviews int
}

// usual has more connections than the largest cluster has nodes.
var usual = limits{
	connections: 8192, unproven: 1024, greeting: 10 * time.Second, idle: time.Minute, age: 30 * time.Minute, grace: 10 * time.Second,
	proof: 40 * time.Second, reviews: 10,
}

const (
	// maxStreams is per connection. A ztunnel has one stream, and asks for a few certificates at a time.
	maxStreams = 64
	// maxMessage bounds a message, in bytes: a proxy that comes back sends the versions of all that it knows. Only those
	// of proven callers are read.
	maxMessage = 16 << 20
	// window is how much of a call is taken in that nobody reads yet, in bytes.
	window = 64 << 10
	// readBuffer is of each connection, in bytes; acknowledgements are short.
	readBuffer = 4 << 10
)

// door lets proven callers in, and ends the streams of those who can't be proven any more.
type door struct {
	limits     limits
	trusted    []string // accounts of nodes' proxies
	callers    ca.Authenticator
	pods       ca.Pods
	signer     *ca.Server // tells callers who ask for certificates why not
	log        *slog.Logger
	complaints *ca.Complaints
	guests     *guests        // from listen on
	unproven   chan struct{}  // has an element for each call whose caller isn't proven yet
	streams    sync.WaitGroup // what proves callers again
}

func newDoor(l limits, trusted []string, callers ca.Authenticator, pods ca.Pods, log *slog.Logger) *door {
	return &door{
		limits: l, trusted: trusted, callers: callers, pods: pods, log: log, complaints: ca.NewComplaints(), unproven: make(chan struct{}, l.unproven),
	}
}

func (d *door) listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for proxies: %w", err)
	}
	d.guests = receive(listener, d.limits.connections)
	return d.guests, nil
}

// options are those of a server behind the door.
func (d *door) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ConnectionTimeout(d.limits.greeting),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: d.limits.idle,
			MaxConnectionAge: d.limits.age, MaxConnectionAgeGrace: d.limits.grace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.StaticStreamWindowSize(window),
		grpc.ReadBufferSize(readBuffer),
		grpc.MaxHeaderListSize(16 << 10), // a token has at most three quarters of it
		grpc.ChainStreamInterceptor(d.admit, d.keep),
	}
}

// admit decides about a call by its headers, before any of its messages is read, and puts the caller into its context.
func (d *door) admit(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx := stream.Context()
	caller, err := d.prove(ctx)
	switch {
	case err == nil:
		if at, known := peer.FromContext(ctx); known {
			d.guests.prove(at.LocalAddr, at.Addr, partyOf(ctx, caller), d.standing(caller))
		}
		return handle(server, bounded{stream, ca.WithCaller(ctx, caller)})
	case ca.Serves(info.FullMethod):
		return d.signer.Refuse(ctx, err)
	}
	d.complaints.Say(d.log, slog.LevelWarn, ca.AddressOf(ctx), "stream refused: caller is not authenticated", err)
	return ca.Opaque(err, unauthenticated)
}

// standing is less for who has a token of no pod and no node: of those anybody who may ask for them has any number, and nodes come first.
func (d *door) standing(caller ca.Caller) standing {
	if slices.Contains(d.trusted, caller.Account()) && (caller.Pod != "" || caller.Node != "") {
		return trusted
	}
	return proven
}

// unauthenticated is what a caller learns of why it has no stream.
const unauthenticated = "authentication failure"

// prove asks whose call it is, unless too many others wait for the same.
func (d *door) prove(ctx context.Context) (ca.Caller, error) {
	select {
	case d.unproven <- struct{}{}:
		defer func() { <-d.unproven }()
		return d.callers.Authenticate(ctx)
	default:
		return ca.Caller{}, fmt.Errorf("%d calls wait for their callers to be authenticated: %w", d.limits.unproven, ca.ErrUnavailable)
	}
}

// keep lets a proxy's stream go on while its caller is proven, by the token that it was opened with. When that expires, the
// proxy comes back with the next one.
func (d *door) keep(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if ca.Serves(info.FullMethod) {
		return handle(server, stream) // soon over
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	d.streams.Go(func() { end(d.untilUnproven(ctx)) })
	err := handle(server, bounded{stream, ctx})
	if ctx.Err() == nil || stream.Context().Err() != nil {
		return err
	}
	caller, _ := ca.CallerOf(ctx)
	d.log.Warn("stream ended: its caller is not authenticated any more",
		"account", caller.Account(), "node", caller.Node, "pod", caller.Pod, "err", context.Cause(ctx))
	return status.Error(codes.Unauthenticated, unauthenticated)
}

// untilUnproven returns why the caller isn't proven any more, or when its stream has ended. Those who came together aren't
// asked for together.
func (d *door) untilUnproven(ctx context.Context) error {
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d.limits.proof/2 + rand.N(d.limits.proof/2)):
		}
		if err := d.again(ctx, n%d.limits.reviews == 0); err != nil {
			return err
		}
	}
}

// again tells why a caller isn't proven any more. While nobody can tell, it is.
func (d *door) again(ctx context.Context, review bool) error {
	caller, _ := ca.CallerOf(ctx)
	if _, err := d.pods.Node(caller); err != nil || !review {
		return err
	}
	if _, err := d.callers.Authenticate(ctx); err != nil && !errors.Is(err, ca.ErrUnavailable) {
		return err
	}
	return nil
}
