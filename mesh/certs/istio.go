package certs

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/mesh/api/ca"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

// IstioCA asks a control plane's certificate service.
type IstioCA struct {
	client      ca.IstioCertificateServiceClient
	impersonate bool
}

// NewIstioCA makes a client that asks over conn, which carries our own credentials. With impersonate it asks for others'
// identities, as a node's proxy does for the node's pods; else the service gives the identity that conn is of.
func NewIstioCA(conn grpc.ClientConnInterface, impersonate bool) *IstioCA {
	return &IstioCA{client: ca.NewIstioCertificateServiceClient(conn), impersonate: impersonate}
}

// Sign implements CA.
func (c *IstioCA) Sign(ctx context.Context, id identity.Workload, csrPEM string, ttl time.Duration) ([]string, error) {
	ask := &ca.IstioCertificateRequest{Csr: csrPEM, ValidityDuration: int64(ttl / time.Second)}
	if c.impersonate {
		ask.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{
			"ImpersonatedIdentity": structpb.NewStringValue(id.String()),
		}}
	}
	answer, err := c.client.CreateCertificate(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("certificate service: %w", err)
	}
	return answer.GetCertChain(), nil
}
