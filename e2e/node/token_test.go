package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/token"
)

// Neither certificates nor configuration are for callers without a good token.
func TestControlPlaneNeedsAToken(t *testing.T) {
	c := shared.use(t)
	mint := func(claims token.Claims) string {
		text, err := c.MintToken(claims)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	foreign, _, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	foreignKey, err := token.ParseKey(foreign)
	if err != nil {
		t.Fatal(err)
	}
	claims := token.Claims{Node: "node1", Account: demo.ZtunnelAccount, TTL: time.Hour}
	forged, err := token.Sign(foreignKey, claims)
	if err != nil {
		t.Fatal(err)
	}
	other := claims
	other.Account = "app/client"
	good := mint(claims)
	cases := []struct {
		name, token    string
		signs, streams codes.Code
	}{
		{"good", good, codes.OK, codes.OK},
		{"none", "", codes.Unauthenticated, codes.Unauthenticated},
		{"nonsense", "nonsense", codes.Unauthenticated, codes.Unauthenticated},
		{"signed by another key", forged, codes.Unauthenticated, codes.Unauthenticated},
		{"cut short", good[:len(good)-4], codes.Unauthenticated, codes.Unauthenticated},
		// Its holder is known, but isn't trusted to ask for others, nor about them.
		{"of an ordinary account", mint(other), codes.PermissionDenied, codes.PermissionDenied},
		{"expired", expired(t, c), codes.Unauthenticated, codes.Unauthenticated},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			config := controlPlane(t, c, tc.token)
			conn, err := controlplane.Dial(config, quiet())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := status.Code(signWith(t, conn, workload(t, "cluster.local", client))); !same(got, tc.signs) {
				t.Errorf("a certificate: %s, want %s", got, tc.signs)
			}
			if got := status.Code(subscribe(t, conn, "node1")); !same(got, tc.streams) {
				t.Errorf("configuration: %s, want %s", got, tc.streams)
			}
		})
	}
}

// expired is a token that was good until an hour ago.
func expired(t *testing.T, c *demo.Cluster) string {
	t.Helper()
	key, err := token.ReadKey(filepath.Join(c.Spec().Dir, "token-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	past := func(ago time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(time.Now().Add(-ago)) }
	standard := jwt.Claims{
		Issuer: "tulle", Subject: "system:serviceaccount:istio-system:ztunnel", Audience: jwt.Audience{token.Audience},
		IssuedAt: past(2 * time.Hour), Expiry: past(time.Hour),
	}
	ours := map[string]any{"node": "node1", "account": demo.ZtunnelAccount}
	text, err := jwt.Signed(signer).Claims(standard).Claims(ours).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A node's configuration is not for the token of another node.
func TestTokenIsForItsOwnNode(t *testing.T) {
	c := shared.use(t)
	conn, err := controlplane.Dial(controlPlane(t, c, c.TokenFile("node1")), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := status.Code(subscribe(t, conn, "node2")); got == codes.OK {
		t.Error("node1's token opens node2's stream")
	}
}

// same allows for either way of saying no.
func same(got, want codes.Code) bool {
	refused := func(c codes.Code) bool { return c == codes.Unauthenticated || c == codes.PermissionDenied }
	return got == want || refused(got) && refused(want)
}

// signWith asks for a certificate as a ztunnel would.
func signWith(t *testing.T, conn *grpc.ClientConn, id identity.Workload) error {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URI()}}, key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	_, err = certs.NewIstioCA(conn, true).Sign(ctx, id, string(csr), time.Hour)
	return err
}

// subscribe opens a stream as the ztunnel of a node would, and returns why there is no answer, or nil.
func subscribe(t *testing.T, conn *grpc.ClientConn, node string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	metadata, err := structpb.NewStruct(map[string]any{"NODE_NAME": node})
	if err != nil {
		t.Fatal(err)
	}
	// An error of Send is only io.EOF; Recv has the reason.
	stream.Send(&discovery.DeltaDiscoveryRequest{
		Node: &core.Node{Id: "ztunnel~127.0.0.1~ztunnel.istio-system~cluster.local", Metadata: metadata}, TypeUrl: "type.googleapis.com/istio.workload.Address",
		ResourceNamesSubscribe: []string{"*"},
	})
	_, err = stream.Recv()
	return err
}
