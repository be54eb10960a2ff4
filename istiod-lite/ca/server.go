package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/mesh/api/ca"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

// Config is what a server needs.
type Config struct {
	Authority *Authority
	// TrustDomain is that of the mesh; identities of others are never signed.
	TrustDomain string
	// TrustedNodeAccounts may ask for certificates of the accounts of the pods on their node. Each is "namespace/name".
	TrustedNodeAccounts []string
	// Runs tells whether a node has a pod of the account that hasn't ended.
	Runs     func(node, namespace, serviceAccount string) bool
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// Server answers requests for certificates; register it with a grpc.Server.
type Server struct {
	ca.UnimplementedIstioCertificateServiceServer
	cfg     Config
	metrics *metrics
}

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg, metrics: newMetrics(cfg.Registry, cfg.Authority)}
}

// refusal says why an impersonation was refused, for the operator only: a caller learns nothing of what runs where.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

// CreateCertificate signs the caller's key for the caller's own identity or, if it is a node proxy, for that of a pod on
// its node. The caller is that of the context, see WithCaller.
func (s *Server) CreateCertificate(ctx context.Context, request *ca.IstioCertificateRequest) (*ca.IstioCertificateResponse, error) {
	caller, known := CallerOf(ctx)
	if !known {
		return nil, s.Unauthenticated(errors.New("nobody has authenticated the call"))
	}
	s.metrics.requests.Inc()
	log := s.cfg.Logger.With("account", caller.Account(), "node", caller.Node)
	id, err := s.identify(caller, request.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue())
	if err != nil {
		return nil, s.refuse(log, err)
	}
	log = log.With("identity", id.String())
	public, ttl, err := s.check(request)
	if err != nil {
		s.metrics.parsing.Inc()
		log.Warn("certificate refused: bad request", "err", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	chain, err := s.cfg.Authority.Issue(id, public, ttl)
	if err != nil {
		s.metrics.signing.WithLabelValues("CERT_GEN_ERROR").Inc()
		log.Error("certificate not signed", "err", err)
		return nil, status.Error(codes.Internal, "certificate generation failure")
	}
	s.metrics.issued.Inc()
	log.Debug("certificate signed", "ttl", ttl)
	return &ca.IstioCertificateResponse{CertChain: chain}, nil
}

// Unauthenticated notes a request of a caller that Tokens didn't prove, and returns what the caller gets.
func (s *Server) Unauthenticated(err error) error {
	s.metrics.requests.Inc()
	s.metrics.authentication.Inc()
	s.cfg.Logger.Warn("certificate refused: caller is not authenticated", "err", err)
	return status.Error(codes.Unauthenticated, "request authentication failure")
}

func (s *Server) refuse(log *slog.Logger, err error) error {
	s.metrics.identification.Inc()
	log.Warn("certificate refused", "err", err)
	var impersonation *refusal
	if errors.As(err, &impersonation) {
		return status.Error(codes.Unauthenticated, "request impersonation authentication failure")
	}
	return status.Error(codes.Unauthenticated, "request authentication failure")
}

// identify decides for whom the certificate will be.
func (s *Server) identify(caller Caller, impersonated string) (identity.Workload, error) {
	if impersonated == "" {
		return identity.New(s.cfg.TrustDomain, caller.Namespace, caller.ServiceAccount)
	}
	if !slices.Contains(s.cfg.TrustedNodeAccounts, caller.Account()) {
		return identity.Workload{}, &refusal{fmt.Sprintf("account %s may not impersonate: it is not among the trusted node accounts %v", caller.Account(), s.cfg.TrustedNodeAccounts)}
	}
	id, err := identity.Parse(impersonated)
	if err != nil {
		return identity.Workload{}, &refusal{err.Error()}
	}
	if id.TrustDomain() != s.cfg.TrustDomain {
		return identity.Workload{}, &refusal{fmt.Sprintf("identity %s is of another trust domain than %s", id, s.cfg.TrustDomain)}
	}
	if caller.Node == "" {
		return identity.Workload{}, &refusal{"the token names no node"}
	}
	if !s.cfg.Runs(caller.Node, id.Namespace(), id.ServiceAccount()) {
		return identity.Workload{}, &refusal{fmt.Sprintf("node %s has no running pod of account %s/%s", caller.Node, id.Namespace(), id.ServiceAccount())}
	}
	return id, nil
}

// check returns the key to sign and for how long.
func (s *Server) check(request *ca.IstioCertificateRequest) (crypto.PublicKey, time.Duration, error) {
	public, err := ParseCSR(request.Csr)
	if err != nil {
		return nil, 0, err
	}
	switch seconds := request.ValidityDuration; {
	case seconds <= 0:
		return public, DefaultTTL, nil
	case seconds > int64(MaxTTL/time.Second):
		return nil, 0, fmt.Errorf("a life of %d s exceeds the maximum of %d s", seconds, int64(MaxTTL/time.Second))
	default:
		return public, time.Duration(seconds) * time.Second, nil
	}
}

func uris(id identity.Workload) []*url.URL { return []*url.URL{id.URI()} }
