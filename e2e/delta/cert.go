package delta

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/mesh/api/ca"
)

// Request makes a certificate request, in PEM.
func Request() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

// Sign asks for a certificate of an identity, such as "spiffe://cluster.local/ns/app/sa/web", and returns the chain.
func (i Identity) Sign(ctx context.Context, conn *grpc.ClientConn, request, identity string) ([]string, error) {
	metadata, err := structpb.NewStruct(map[string]any{"ImpersonatedIdentity": identity})
	if err != nil {
		return nil, err
	}
	answer, err := ca.NewIstioCertificateServiceClient(conn).CreateCertificate(i.As(ctx), &ca.IstioCertificateRequest{Csr: request, Metadata: metadata})
	return answer.GetCertChain(), err
}
