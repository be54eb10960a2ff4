package daemon_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/mesh/api/ca"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

const (
	frontendID = "spiffe://cluster.local/ns/demo/sa/frontend"
	backendID  = "spiffe://cluster.local/ns/demo/sa/backend"
)

// certificate asks for one; change alters the request before.
func (w *world) certificate(token, impersonated string, change func(*ca.IstioCertificateRequest)) ([]string, error) {
	w.t.Helper()
	request := &ca.IstioCertificateRequest{Csr: csr(w.t), ValidityDuration: 3600}
	if impersonated != "" {
		request.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(impersonated)}}
	}
	if change != nil {
		change(request)
	}
	ctx, cancel := context.WithTimeout(as(context.Background(), token), patience)
	defer cancel()
	response, err := ca.NewIstioCertificateServiceClient(w.dial()).CreateCertificate(ctx, request)
	return response.GetCertChain(), err
}

// streamError opens a stream that will be refused, and returns why.
func streamError(t *testing.T, w *world, token, nodeName string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(as(context.Background(), token), patience)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(w.dial()).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The stream may end before this is sent; why is what Recv returns.
	_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node(nodeName), TypeUrl: push.Address})
	_, err = stream.Recv()
	if err == nil {
		return ""
	}
	return status.Code(err).String() + ": " + status.Convert(err).Message()
}

func TestANodeProxyGetsTheCertificateOfItsPod(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	before := time.Now()
	chain, err := w.certificate(w.token(nil), frontendID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 2 {
		t.Fatalf("want the certificate and the roots, have %d elements", len(chain))
	}
	var leaf *x509.Certificate
	for i, text := range chain {
		block, rest := pem.Decode([]byte(text))
		if block == nil || len(rest) != 0 || !strings.HasSuffix(text, "\n") {
			t.Fatalf("element %d isn't one certificate that ends in a newline: %q", i, text)
		}
		if i == 0 {
			if leaf, err = x509.ParseCertificate(block.Bytes); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: w.roots(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	id, err := identity.FromCertificate(leaf)
	if err != nil || id.String() != frontendID || len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.Subject.String() != "" {
		t.Errorf("certificate of %v, %v, %v, %v, %v, %q: %v", id, leaf.URIs, leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses, leaf.Subject, err)
	}
	if late := before.Add(-2 * time.Minute).Sub(leaf.NotBefore); late < -time.Minute || late > time.Minute {
		t.Errorf("valid from %s", leaf.NotBefore)
	}
	if life := leaf.NotAfter.Sub(before); life < 59*time.Minute || life > 61*time.Minute {
		t.Errorf("valid for %s", life)
	}
	if leaf.IsCA || !leaf.BasicConstraintsValid || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("CA %v, usages %v", leaf.IsCA, leaf.ExtKeyUsage)
	}
	own, err := w.certificate(w.token(nil), "", func(r *ca.IstioCertificateRequest) { r.ValidityDuration = 0 })
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(own[0]))
	if leaf, err = x509.ParseCertificate(block.Bytes); err != nil || leaf.URIs[0].String() != "spiffe://cluster.local/ns/istio-system/sa/ztunnel" {
		t.Errorf("its own certificate: %v %v", leaf.URIs, err)
	}
	if life := time.Until(leaf.NotAfter); life < 23*time.Hour || life > 25*time.Hour {
		t.Errorf("without a wish valid for %s", life)
	}
}

func TestATokenSignedWithP256IsGood(t *testing.T) {
	w := newWorld(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	w.ready()
	// The key changes while the control plane runs.
	w.writeKey(key.Public())
	if _, err := w.certificate(sign(t, key, jose.ES256, nil), frontendID, nil); err != nil {
		t.Error(err)
	}
	if _, err := w.certificate(w.token(nil), frontendID, nil); err == nil {
		t.Error("a token of the old key is good")
	}
}

func set(claim string, value any) func(map[string]any) {
	return func(all map[string]any) { all[claim] = value }
}

func without(claim string) func(map[string]any) {
	return func(all map[string]any) { delete(all, claim) }
}

// badTokens are refused by both services, with a reason in the log that the caller doesn't get.
func badTokens(t *testing.T, w *world) map[string]struct{ token, log string } {
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := make([]byte, 32)
	past := time.Now().Add(-time.Hour).Unix()
	return map[string]struct{ token, log string }{
		"none":                {"", "no token"},
		"no JWT":              {"abc", "parse token"},
		"huge":                {strings.Repeat("x", 10000), "token exceeds"},
		"another key":         {sign(t, other, jose.EdDSA, nil), "not signed by the key"},
		"a shared secret":     {sign(t, secret, jose.HS256, nil), "parse token"},
		"expired":             {w.token(set("exp", past)), "expired"},
		"not yet":             {w.token(set("iat", time.Now().Add(time.Hour).Unix())), "issued in the future"},
		"without an end":      {w.token(without("exp")), "without exp"},
		"another audience":    {w.token(set("aud", []string{"api"})), "audience"},
		"without an audience": {w.token(without("aud")), "audience"},
		"without an account":  {w.token(without("account")), "want namespace/name"},
		"an odd account":      {w.token(set("account", "a/b/c")), "want namespace/name"},
	}
}

func TestBadTokensAreRefused(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	for name, c := range badTokens(t, w) {
		t.Run(name, func(t *testing.T) {
			_, err := w.certificate(c.token, frontendID, nil)
			if status.Convert(err).Message() != "request authentication failure" || status.Code(err).String() != "Unauthenticated" {
				t.Errorf("certificate: %v", err)
			}
			if !w.logs.has(c.log) {
				t.Errorf("no %q in the log", c.log)
			}
			if got := streamError(t, w, c.token, "node1"); got != "Unauthenticated: authentication failure" {
				t.Errorf("stream: %s", got)
			}
		})
	}
}

func TestNothingIsReadOfACallerThatIsNotProven(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	huge := func(r *ca.IstioCertificateRequest) { r.Csr = strings.Repeat("x", 17<<20) }
	if _, err := w.certificate(w.token(nil), frontendID, huge); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("with a token: %v", err)
	}
	if _, err := w.certificate("", frontendID, huge); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without: %v", err)
	}
	if _, body := w.get("/metrics"); !strings.Contains(body, "citadel_server_authentication_failure_count 1\n") {
		t.Error("the failure isn't counted")
	}
}

func TestTheMeshIsNotForTheTokenOfAPod(t *testing.T) {
	w := newWorld(t)
	w.start("--trusted-node-accounts", "istio-system/other")
	w.ready()
	if got := streamError(t, w, w.token(nil), "node1"); got != "PermissionDenied: account istio-system/ztunnel is not among the trusted node accounts" {
		t.Error(got)
	}
}

func TestImpersonationIsForTrustedNodesAndTheirPods(t *testing.T) {
	w := newWorld(t)
	w.write("objects/ended.yaml", strings.Replace(podYAML("job", "node1", "10.1.0.9"), "Running", "Succeeded", 1))
	w.start()
	w.ready()
	for name, c := range map[string]struct{ token, id, log string }{
		"another account":          {w.token(set("account", "demo/frontend")), frontendID, "account demo/frontend may not impersonate"},
		"a pod of another node":    {w.token(nil), backendID, "node node1 has no running pod of account demo/backend"},
		"an account without pod":   {w.token(nil), "spiffe://cluster.local/ns/demo/sa/nobody", "no running pod of account demo/nobody"},
		"an ended pod":             {w.token(nil), "spiffe://cluster.local/ns/demo/sa/job", "no running pod of account demo/job"},
		"another trust domain":     {w.token(nil), "spiffe://evil.example/ns/demo/sa/frontend", "of another trust domain than cluster.local"},
		"no SPIFFE identity":       {w.token(nil), "https://cluster.local/ns/demo/sa/frontend", "https://cluster.local"},
		"an odd path":              {w.token(nil), "spiffe://cluster.local/ns/demo/sa/frontend/x", "sa/frontend/x"},
		"a token without its node": {w.token(without("node")), frontendID, "names neither a node nor a pod"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.certificate(c.token, c.id, nil)
			if status.Convert(err).Message() != "request impersonation authentication failure" || status.Code(err).String() != "Unauthenticated" {
				t.Errorf("answer: %v", err)
			}
			if !w.logs.has(c.log) {
				t.Errorf("no %q in the log:\n%s", c.log, w.logs.text.String())
			}
		})
	}
	// A pod that comes is served, one that goes no more.
	w.write("objects/more.yaml", podYAML("nobody", "node1", "10.1.0.3"))
	w.eventually("signed", func() bool {
		_, err := w.certificate(w.token(nil), "spiffe://cluster.local/ns/demo/sa/nobody", nil)
		return err == nil
	})
	w.write("objects/more.yaml", podYAML("nobody", "node2", "10.1.0.3"))
	w.eventually("refused", func() bool {
		_, err := w.certificate(w.token(nil), "spiffe://cluster.local/ns/demo/sa/nobody", nil)
		return err != nil
	})
}

func TestBadCertificateRequestsAreRefused(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	good := csr(t)
	block, _ := pem.Decode([]byte(good))
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	for name, change := range map[string]func(*ca.IstioCertificateRequest){
		"empty":  func(r *ca.IstioCertificateRequest) { r.Csr = "" },
		"no PEM": func(r *ca.IstioCertificateRequest) { r.Csr = "hello" },
		"another PEM": func(r *ca.IstioCertificateRequest) {
			r.Csr = strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE")
		},
		"not DER":         func(r *ca.IstioCertificateRequest) { r.Csr = pemOf([]byte("hello")) },
		"another's key":   func(r *ca.IstioCertificateRequest) { r.Csr = pemOf(forged) },
		"huge":            func(r *ca.IstioCertificateRequest) { r.Csr = strings.Repeat("x", 20000) },
		"too long a life": func(r *ca.IstioCertificateRequest) { r.ValidityDuration = 90*24*3600 + 1 },
		"endless":         func(r *ca.IstioCertificateRequest) { r.ValidityDuration = 1 << 62 },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.certificate(w.token(nil), frontendID, change)
			if status.Code(err).String() != "InvalidArgument" {
				t.Errorf("answer: %v", err)
			}
		})
	}
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func TestAStreamIsForTheNodeOfItsToken(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.ready()
	if got := streamError(t, w, w.token(nil), "node2"); got != `PermissionDenied: NODE_NAME is "node2" in the request, but "node1" in the token` {
		t.Error(got)
	}
	if got := streamError(t, w, w.token(set("account", "demo/frontend")), "node1"); !strings.Contains(got, `NAMESPACE is "istio-system"`) {
		t.Error(got)
	}
}

func TestAPluggedAuthorityMustBeWhole(t *testing.T) {
	w := newWorld(t)
	w.write("cacerts/ca-cert.pem", "x")
	if _, err := newDaemon(w); err == nil || !strings.Contains(err.Error(), "lacks [ca-key.pem root-cert.pem cert-chain.pem]") {
		t.Errorf("half of one: %v", err)
	}
}

// A key that isn't there shows only when the first proxy is refused, unless the start tells.
func TestAMissingTokenKeyIsSaidAtTheStart(t *testing.T) {
	w := newWorld(t)
	if err := os.Remove(filepath.Join(w.dir, "token-key.pub")); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.ready()
	w.eventually("said", func() bool { return w.logs.has("every proxy will be refused until the tokens' public key is there") })
}

func TestCertificatesMayBeAnotherAuthoritys(t *testing.T) {
	w := newWorld(t)
	w.start("--ca-server=false")
	w.ready()
	if _, err := w.certificate(w.token(nil), frontendID, nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("asked for a certificate: %v", err)
	}
}
