package fakeistiod

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	capb "github.com/tulle-mesh/tulle/mesh/api/ca"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

// wrap names and encodes a resource. Its version is a hash of its content.
func wrap(tb testing.TB, message proto.Message) *discoveryv3.Resource {
	tb.Helper()
	name := ""
	switch m := message.(type) {
	case *workload.Workload:
		return wrap(tb, &workload.Address{Type: &workload.Address_Workload{Workload: m}})
	case *workload.Service:
		return wrap(tb, &workload.Address{Type: &workload.Address_Service{Service: m}})
	case *workload.Address:
		if name = m.GetWorkload().GetUid(); m.GetService() != nil {
			name = m.GetService().GetNamespace() + "/" + m.GetService().GetHostname()
		}
	case *security.Authorization:
		name = m.GetNamespace() + "/" + m.GetName()
	case *l7.Resource:
		name = m.GetOrigin().GetKind() + "/" + m.GetOrigin().GetNamespace() + "/" + m.GetOrigin().GetName()
	default:
		tb.Fatalf("fake istiod: a %T is no resource", message)
	}
	body := new(anypb.Any)
	if err := anypb.MarshalFrom(body, message, proto.MarshalOptions{Deterministic: true}); err != nil {
		tb.Fatal(err)
	}
	hash := sha256.Sum256(body.GetValue())
	return &discoveryv3.Resource{Name: name, Version: hex.EncodeToString(hash[:8]), Resource: body, Aliases: aliases(message)}
}

// aliases are the "network/address" of a workload or service.
func aliases(message proto.Message) (list []string) {
	address, ok := message.(*workload.Address)
	if !ok {
		return nil
	}
	add := func(network string, raw []byte) {
		if ip, ok := netip.AddrFromSlice(raw); ok {
			list = append(list, network+"/"+ip.String())
		}
	}
	for _, raw := range address.GetWorkload().GetAddresses() {
		add(address.GetWorkload().GetNetwork(), raw)
	}
	for _, at := range address.GetService().GetAddresses() {
		add(at.GetNetwork(), at.GetAddress())
	}
	return list
}

// authority is the certificate service.
type authority struct {
	capb.UnimplementedIstioCertificateServiceServer
	server *Server
}

// CreateCertificate signs for whatever identity the caller says to ask for. One that asks for none is what its token says:
// namespace:account.
func (a authority) CreateCertificate(ctx context.Context, request *capb.IstioCertificateRequest) (*capb.IstioCertificateResponse, error) {
	header, _ := metadata.FromIncomingContext(ctx)
	a.server.mu.Lock()
	a.server.signed = append(a.server.signed, header)
	a.server.mu.Unlock()
	asked := request.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue()
	id, err := identity.Parse(asked)
	if namespace, account, ok := strings.Cut(bearer(header), ":"); asked == "" && ok {
		id, err = identity.New("cluster.local", namespace, account)
	}
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	ttl := time.Duration(request.GetValidityDuration()) * time.Second
	chain, err := a.server.ca.Sign(ctx, id, request.GetCsr(), ttl)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &capb.IstioCertificateResponse{CertChain: chain}, nil
}

func bearer(header metadata.MD) string {
	return strings.TrimPrefix(strings.Join(header.Get("authorization"), ""), "Bearer ")
}

// selfSigned makes the server's certificate, which is its own root.
func selfSigned(tb testing.TB) (tls.Certificate, []byte) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake istiod"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"istiod.istio-system.svc", "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, root
}
