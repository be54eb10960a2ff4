package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/mesh/api/ca"
)

// Config is what a server needs.
type Config struct {
	Authority *Live
	// TrustDomains are that of the mesh and then its aliases; identities of others are never signed.
	TrustDomains func() []string
	// TrustedNodeAccounts may ask for certificates of the accounts of the pods on their node. Each is "namespace/name".
	TrustedNodeAccounts []string
	Pods                Pods
	// DefaultTTL is the life of a certificate whose request names none, MaxTTL the longest that may be asked for. Zero means
	// DefaultTTL and MaxTTL of this package.
	DefaultTTL, MaxTTL time.Duration
	Registry           prometheus.Registerer
	Logger             *slog.Logger
}

const (
	// A client, which is a node proxy or a pod, gets this many certificates a second in the long run, so that one alone
	// doesn't keep the authority busy, and as many at once as a full node needs when its proxy starts.
	rate, burst = 200, 1000
)

// Server answers requests for certificates; Register it with a grpc.Server.
type Server struct {
	cfg        Config
	metrics    *metrics
	limit      *Limit
	complaints *Complaints
}

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	if cfg.DefaultTTL == 0 {
		cfg.DefaultTTL = DefaultTTL
	}
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = MaxTTL
	}
	return &Server{
		cfg: cfg, metrics: newMetrics(cfg.Registry, cfg.Authority), limit: NewLimit(rate, burst), complaints: NewComplaints(),
	}
}

// Register serves certificates to callers that an interceptor of streams has proven, see WithCaller. The method is
// registered as a stream of one message each way, which is the same on the wire: of a unary call, gRPC reads the message
// before it asks anybody who calls.
func (s *Server) Register(registrar grpc.ServiceRegistrar) {
	desc := grpc.ServiceDesc{ServiceName: ca.IstioCertificateService_ServiceDesc.ServiceName, HandlerType: (*any)(nil)}
	for _, method := range ca.IstioCertificateService_ServiceDesc.Methods {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: method.MethodName, Handler: s.serve, ServerStreams: true, ClientStreams: true,
		})
	}
	registrar.RegisterService(&desc, s)
}

// Serves tells whether the method, by its full name, is of this service.
func Serves(method string) bool {
	return strings.HasPrefix(method, "/"+ca.IstioCertificateService_ServiceDesc.ServiceName+"/")
}

func (s *Server) serve(_ any, stream grpc.ServerStream) error {
	caller, known := CallerOf(stream.Context())
	if !known {
		return s.Refuse(stream.Context(), errors.New("nobody has authenticated the call"))
	}
	s.metrics.requests.Inc()
	log := s.cfg.Logger.With("account", caller.Account(), "node", caller.Node, "pod", caller.Pod)
	if !s.limit.Allow(caller.client()) {
		s.metrics.throttled.Inc()
		log.Debug("certificate refused: the client asks too often", "rate", rate)
		return status.Errorf(codes.ResourceExhausted, "more than %d certificates a second: try again later", rate)
	}
	request := new(ca.IstioCertificateRequest)
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	response, err := s.create(caller, request, log)
	if err != nil {
		return err
	}
	return stream.SendMsg(response)
}

// create signs the caller's key for the caller's own identity or, if it is a node proxy, for that of a pod on its node.
func (s *Server) create(caller Caller, request *ca.IstioCertificateRequest, log *slog.Logger) (*ca.IstioCertificateResponse, error) {
	impersonated := request.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue()
	id, err := s.identify(caller, impersonated)
	if err != nil {
		return nil, s.unidentified(caller, log.With("impersonated", cut(impersonated)), err)
	}
	log = log.With("identity", id.String())
	public, ttl, err := s.check(request)
	if err != nil {
		s.metrics.parsing.Inc()
		s.complaints.Say(log, slog.LevelWarn, caller.client(), "certificate refused: bad request", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	chain, err := s.cfg.Authority.Authority().Issue(id, public, ttl)
	if err != nil {
		s.metrics.signing.WithLabelValues("CERT_GEN_ERROR").Inc()
		log.Error("certificate not signed", "err", err)
		return nil, status.Error(codes.Internal, "certificate generation failure")
	}
	s.metrics.issued.Inc()
	log.Debug("certificate signed", "ttl", ttl)
	return &ca.IstioCertificateResponse{CertChain: chain}, nil
}

// Refuse notes a request of a caller that wasn't proven, and returns what the caller gets.
func (s *Server) Refuse(ctx context.Context, err error) error {
	s.metrics.requests.Inc()
	s.metrics.authentication.Inc()
	s.complaints.Say(s.cfg.Logger, slog.LevelWarn, AddressOf(ctx), "certificate refused: caller is not authenticated", err)
	return Opaque(err, "request authentication failure")
}

// Opaque is what a caller learns of why it isn't proven: nothing, or to try again.
func Opaque(err error, message string) error {
	if errors.Is(err, ErrUnavailable) {
		return status.Error(codes.Unavailable, message+": try again")
	}
	return status.Error(codes.Unauthenticated, message)
}

func (s *Server) unidentified(caller Caller, log *slog.Logger, err error) error {
	s.metrics.identification.Inc()
	var impersonation *refusal
	var early *unseen
	level, message, answer := slog.LevelWarn, "certificate refused", "request authentication failure"
	switch {
	case errors.As(err, &early):
		// This is usual when a pod has just come.
		level, message, answer = slog.LevelInfo, "certificate not signed yet", "request impersonation authentication failure"
	case errors.As(err, &impersonation):
		answer = "request impersonation authentication failure"
	}
	s.complaints.Say(log, level, caller.client(), message, err)
	return Opaque(err, answer)
}

// check returns the key to sign and for how long.
func (s *Server) check(request *ca.IstioCertificateRequest) (crypto.PublicKey, time.Duration, error) {
	public, err := parseCSR(request.Csr)
	if err != nil {
		return nil, 0, err
	}
	maximum := int64(s.cfg.MaxTTL / time.Second)
	switch seconds := request.ValidityDuration; {
	case seconds <= 0:
		return public, s.cfg.DefaultTTL, nil
	case seconds > maximum:
		return nil, 0, fmt.Errorf("a life of %d s exceeds the maximum of %d s (MAX_WORKLOAD_CERT_TTL)", seconds, maximum)
	default:
		return public, time.Duration(seconds) * time.Second, nil
	}
}

// cut shortens what a caller sent, for the log.
func cut(text string) string {
	if len(text) > 256 {
		return text[:256] + "…"
	}
	return text
}

func join(list []string) string { return strings.Join(list, ", ") }
