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
	// Pod is empty if the token isn't bound to one. Then Address tells the caller from others of the account: the machine that called.
	Pod, Address string
}

// Account is "namespace/name".
func (c Caller) Account() string { return c.Namespace + "/" + c.ServiceAccount }

// who names what may have so many streams.
func (c Caller) who() string {
	if c.Pod != "" {
		return "the pod " + c.Pod
	}
	return "the account " + c.Account() + " at " + c.Address
}

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
	// Complain logs what is wrong with a caller, so that none can fill the log; nil logs all of it.
	Complain func(ctx context.Context, log *slog.Logger, message string, err error)
}

// Server serves delta streams; register it with a grpc.Server that has the option Codec. After that one was stopped, Wait
// waits for what is left.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg      Config
	metrics  *metrics
	patience time.Duration
	group    sync.WaitGroup // goroutines of streams
	hearing  gate           // of new streams

	lock    sync.Mutex
	streams map[*shown]struct{}
	opened  map[Caller][]*stream // in the order they came
}

// maxOpened is how many streams a pod may have, or an account at one address by tokens of no pod. A proxy needs one, and has more only while
// those it has left aren't known to be dead.
const maxOpened = 8

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	if cfg.Complain == nil {
		cfg.Complain = func(_ context.Context, log *slog.Logger, message string, err error) { log.Warn(message, "err", err) }
	}
	return &Server{
		cfg: cfg, metrics: newMetrics(cfg.Registry), patience: patience, hearing: make(gate, turns),
		streams: make(map[*shown]struct{}), opened: make(map[Caller][]*stream),
	}
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
	if err := s.mayServe(caller); err != nil {
		s.cfg.Complain(w.Context(), s.cfg.Logger.With("node", caller.Node, "account", caller.Account(), "pod", caller.Pod), "stream refused", err)
		return err
	}
	one := &stream{
		server: s, log: s.cfg.Log, wire: w, caller: caller, patience: s.patience, logger: s.cfg.Logger,
		listener: newListener(), ended: make(chan error, 1),
	}
	defer s.enter(one)()
	return one.run(w.Context())
}

// enter counts a stream for its caller, of which the oldest ends if there are too many, until leave is called.
func (s *Server) enter(one *stream) (leave func()) {
	caller := one.caller
	s.lock.Lock()
	defer s.lock.Unlock()
	if all := s.opened[caller]; len(all) >= maxOpened {
		all[0].end(status.Errorf(codes.ResourceExhausted, "%s has opened %d more streams", caller.who(), maxOpened))
		s.opened[caller] = slices.Clone(all[1:])
	}
	s.opened[caller] = append(s.opened[caller], one)
	return func() {
		s.lock.Lock()
		defer s.lock.Unlock()
		s.opened[caller] = slices.DeleteFunc(s.opened[caller], func(other *stream) bool { return other == one })
		if len(s.opened[caller]) == 0 {
			delete(s.opened, caller)
		}
	}
}

// mayServe refuses who can be no proxy before anything is read of what he sends. A pod that a token isn't bound to is only known by
// the first request.
func (s *Server) mayServe(caller Caller) error {
	if caller.Pod == "" || slices.Contains(s.cfg.TrustedNodeAccounts, caller.Account()) {
		return nil
	}
	if _, err := s.cfg.Waypoint(caller, caller.Pod); err != nil {
		return status.Errorf(codes.PermissionDenied, "account %s is not among the trusted node accounts, and the pod %s is not a waypoint: %v", caller.Account(), caller.Pod, err)
	}
	return nil
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
