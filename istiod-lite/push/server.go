package push

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Caller is who opened a stream, as proven by its token.
type Caller struct{ Namespace, ServiceAccount, Node string }

// Config is what a server needs.
type Config struct {
	Log *Log
	// Authenticate proves the caller by the credentials of its call. The error is what the caller gets, so a status.
	Authenticate func(context.Context) (Caller, error)
	// TrustedNodeAccounts are those of node proxies, each "namespace/name". Nobody else learns what is in the mesh.
	TrustedNodeAccounts []string
	Registry            prometheus.Registerer
	Logger              *slog.Logger
}

// Server serves delta streams; register it with a grpc.Server. After that one was stopped, Wait waits for what is left.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg      Config
	metrics  *metrics
	patience time.Duration
	group    sync.WaitGroup // goroutines of streams

	lock    sync.Mutex
	streams map[*shown]struct{}
}

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg, metrics: newMetrics(cfg.Registry), patience: patience, streams: make(map[*shown]struct{})}
}

// Wait returns when no stream has a goroutine any more.
func (s *Server) Wait() { s.group.Wait() }

type wire = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// DeltaAggregatedResources serves one proxy.
func (s *Server) DeltaAggregatedResources(w wire) error {
	caller, err := s.cfg.Authenticate(w.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	requests := s.receive(ctx, w)
	node, first, err := s.greet(ctx, requests, caller)
	if err != nil {
		return err
	}
	show := s.show(node, caller)
	defer s.hide(show)
	send, sent := s.sender(ctx, w)
	one := &stream{
		log: s.cfg.Log, metrics: s.metrics, shown: show, requests: requests, send: send, sent: sent,
		patience: s.patience, node: caller.Node,
		logger:        s.cfg.Logger.With("proxy", node.Id, "node", caller.Node),
		subscriptions: make(map[string]*subscription), outstanding: make(map[string]*discoveryv3.DeltaDiscoveryResponse),
	}
	defer one.close()
	if err := one.request(first); err != nil {
		return err
	}
	return one.run(ctx)
}

// receive reads requests until the stream ends, which it does at the latest when its handler returns.
func (s *Server) receive(ctx context.Context, w wire) <-chan *discoveryv3.DeltaDiscoveryRequest {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	s.group.Go(func() {
		defer close(requests)
		for {
			request, err := w.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- request:
			case <-ctx.Done():
				return
			}
		}
	})
	return requests
}

// sender writes rounds. It blocks where the proxy doesn't read, until the handler gives up and returns.
func (s *Server) sender(ctx context.Context, w wire) (chan<- []*discoveryv3.DeltaDiscoveryResponse, <-chan error) {
	send := make(chan []*discoveryv3.DeltaDiscoveryResponse, 1)
	sent := make(chan error, 1)
	s.group.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case responses := <-send:
				sent <- sendAll(w, responses) // has room: one answer per round
			}
		}
	})
	return send, sent
}

func sendAll(w wire, responses []*discoveryv3.DeltaDiscoveryResponse) error {
	for _, response := range responses {
		if err := w.Send(response); err != nil {
			return err
		}
	}
	return nil
}

// greet takes the first request, which says what the proxy is.
func (s *Server) greet(ctx context.Context, requests <-chan *discoveryv3.DeltaDiscoveryRequest, caller Caller) (*corev3.Node, *discoveryv3.DeltaDiscoveryRequest, error) {
	timer := time.NewTimer(greeting)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, nil, status.FromContextError(ctx.Err()).Err()
	case <-timer.C:
		return nil, nil, status.Errorf(codes.DeadlineExceeded, "no request within %s", greeting)
	case first, open := <-requests:
		if !open {
			return nil, nil, status.Error(codes.Canceled, "stream closed before its first request")
		}
		if err := s.checkNode(first.Node, caller); err != nil {
			s.cfg.Logger.Warn("stream refused", "proxy", first.Node.GetId(), "node", caller.Node,
				"account", caller.Namespace+"/"+caller.ServiceAccount, "err", err)
			return nil, nil, err
		}
		return first.Node, first, nil
	}
}

// checkNode refuses a proxy that says to be something else than its token does, or that isn't a node's.
func (s *Server) checkNode(node *corev3.Node, caller Caller) error {
	kind, _, _ := strings.Cut(node.GetId(), "~")
	switch kind {
	case "":
		return status.Error(codes.InvalidArgument, "the first request must have a node with an id")
	case "ztunnel":
	default:
		return status.Errorf(codes.InvalidArgument, "proxies of type %q are not served here", kind)
	}
	for _, check := range []struct{ field, proven string }{
		{"NODE_NAME", caller.Node}, {"NAMESPACE", caller.Namespace}, {"SERVICE_ACCOUNT", caller.ServiceAccount},
	} {
		claimed := node.GetMetadata().GetFields()[check.field].GetStringValue()
		if claimed != "" && claimed != check.proven {
			return status.Errorf(codes.PermissionDenied, "%s is %q in the request, but %q in the token", check.field, claimed, check.proven)
		}
	}
	if account := caller.Namespace + "/" + caller.ServiceAccount; !slices.Contains(s.cfg.TrustedNodeAccounts, account) {
		return status.Errorf(codes.PermissionDenied, "account %s is not among the trusted node accounts", account)
	}
	return nil
}
