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
type Caller struct {
	Namespace, ServiceAccount, Node string
	// Pod is empty if the token isn't bound to one.
	Pod string
}

// Account is "namespace/name".
func (c Caller) Account() string { return c.Namespace + "/" + c.ServiceAccount }

// Config is what a server needs.
type Config struct {
	Log *Log
	// Authenticate proves the caller by the credentials of its call. The error is what the caller gets, so a status.
	Authenticate func(context.Context) (Caller, error)
	// TrustedNodeAccounts are those of node proxies, each "namespace/name". Nobody else learns what is in the mesh.
	TrustedNodeAccounts []string
	// Waypoint says of which waypoint a pod is an instance that runs as the caller; the error says why of none. The pod is
	// only named by the caller if that has none.
	Waypoint func(caller Caller, pod string) (Waypoint, error)
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// Server serves delta streams; register it with a grpc.Server that has the option Codec. After that one was stopped, Wait
// waits for what is left.
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
	first, waypoint, err := s.greet(ctx, requests, caller)
	if err != nil {
		return err
	}
	show := s.show(first.Node, caller)
	defer s.hide(show)
	send, sent := s.sender(ctx, w)
	one := &stream{
		log: s.cfg.Log, metrics: s.metrics, shown: show, requests: requests, send: send, sent: sent,
		patience:      s.patience,
		logger:        s.cfg.Logger.With("proxy", first.Node.Id, "node", caller.Node),
		subscriptions: make(map[string]*subscription), outstanding: make(map[string]pushed),
	}
	if waypoint != nil {
		one.view = s.cfg.Log.openView(*waypoint)
	} else {
		one.node = caller.Node
	}
	defer one.close()
	if err := one.request(first); err != nil {
		return err
	}
	return one.run(ctx)
}

// receive reads requests until the stream ends, which it does at the latest when its handler returns.
func (s *Server) receive(ctx context.Context, w wire) <-chan *request {
	requests := make(chan *request)
	s.group.Go(func() {
		defer close(requests)
		for {
			next := new(request)
			if err := w.RecvMsg(next); err != nil {
				return
			}
			select {
			case requests <- next:
			case <-ctx.Done():
				return
			}
		}
	})
	return requests
}

// sender writes rounds. It blocks where the proxy doesn't read, until the handler gives up and returns.
func (s *Server) sender(ctx context.Context, w wire) (chan<- []*response, <-chan error) {
	send := make(chan []*response, 1)
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

func sendAll(w wire, responses []*response) error {
	for _, response := range responses {
		if err := w.SendMsg(response); err != nil {
			return err
		}
	}
	return nil
}

// greet takes the first request, which says what the proxy is: a waypoint, or a node's if that is nil.
func (s *Server) greet(ctx context.Context, requests <-chan *request, caller Caller) (*request, *Waypoint, error) {
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
		waypoint, err := s.identify(first.Node, caller)
		if err != nil {
			s.cfg.Logger.Warn("stream refused", "proxy", first.Node.GetId(), "node", caller.Node, "account", caller.Account(), "err", err)
			return nil, nil, err
		}
		return first, waypoint, nil
	}
}

// identify refuses a proxy that says to be something else than its token does, or that isn't a node's or a waypoint.
func (s *Server) identify(node *corev3.Node, caller Caller) (*Waypoint, error) {
	// TYPE~IP~POD.NAMESPACE~DOMAIN
	parts := strings.Split(node.GetId(), "~")
	kind := parts[0]
	switch kind {
	case "":
		return nil, status.Error(codes.InvalidArgument, "the first request must have a node with an id")
	case "ztunnel", "waypoint":
	default:
		return nil, status.Errorf(codes.InvalidArgument, "proxies of type %q are not served here", kind)
	}
	for _, check := range []struct{ field, proven string }{
		{"NODE_NAME", caller.Node}, {"NAMESPACE", caller.Namespace}, {"SERVICE_ACCOUNT", caller.ServiceAccount},
	} {
		claimed := node.GetMetadata().GetFields()[check.field].GetStringValue()
		if claimed != "" && claimed != check.proven {
			return nil, status.Errorf(codes.PermissionDenied, "%s is %q in the request, but %q in the token", check.field, claimed, check.proven)
		}
	}
	if kind == "waypoint" {
		return s.waypoint(parts, caller)
	}
	if !slices.Contains(s.cfg.TrustedNodeAccounts, caller.Account()) {
		return nil, status.Errorf(codes.PermissionDenied, "account %s is not among the trusted node accounts", caller.Account())
	}
	return nil, nil
}

// waypoint finds out which waypoint a caller is, by the parts of its node's id.
func (s *Server) waypoint(parts []string, caller Caller) (*Waypoint, error) {
	if len(parts) != 4 {
		return nil, status.Error(codes.InvalidArgument, "want a node id like waypoint~IP~POD.NAMESPACE~DOMAIN")
	}
	pod, ok := strings.CutSuffix(parts[2], "."+caller.Namespace)
	if !ok {
		return nil, status.Errorf(codes.PermissionDenied, "%q in the node id is not a pod of the token's namespace %s", parts[2], caller.Namespace)
	}
	if caller.Pod != "" && pod != caller.Pod {
		return nil, status.Errorf(codes.PermissionDenied, "the pod is %s in the request, but %s in the token", pod, caller.Pod)
	}
	waypoint, err := s.cfg.Waypoint(caller, pod)
	if err != nil {
		return nil, status.Errorf(codes.PermissionDenied, "not a waypoint: %v", err)
	}
	return &waypoint, nil
}
