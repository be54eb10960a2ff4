package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"time"
)

const gatewayYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: bench}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: gate.bench.svc.cluster.local}]}
`

// testCase is what requests go through, and what it should cost. Those without a service don't go through a waypoint.
type testCase struct {
	name    string
	service string
	grpc    bool
	rate    int // requests in a second; 0 for saturation
	role    string
	path    string
	fields  []field
	yaml    func() string
	// target is the most that CPU of a request may be, as a multiple of another case's.
	target float64
	of     string
}

// The cases that others are compared with.
const (
	reference      = "ReverseProxy, plain"
	referenceAt    = "ReverseProxy, plain, 5,000/s"
	oneRule        = "1 route, 1 rule"
	fixedRate      = 5000
	outstanding    = 64
	h2Connections  = 4
	clientsTunnels = 4
)

func none() string { return "" }

func cases() []testCase {
	private := signer()
	bearer := []field{{Name: "authorization", Value: "Bearer " + sign(private)}}
	all := []testCase{
		{name: reference, role: roleReverse, path: "/", yaml: none},
		{name: "HTTP/1.1 codecs alone, plain", role: roleCodecs, path: "/", yaml: none, target: 0.35, of: reference},
		{name: "bytes alone, plain", role: roleBytes, path: "/", yaml: none, of: reference},
		{name: "tunnels alone", service: "opaque", path: "/", yaml: opaqueYAML},
		{name: "HTTP/1.1, everything on", service: "full", path: "/api/v1/items", yaml: func() string { return fullYAML("full") }, target: 0.4, of: reference},
		{name: "gRPC, everything on", service: "grpc", grpc: true, path: "/shop.Items/Get", yaml: func() string { return fullYAML("grpc") }, target: 0.4, of: reference},
		{name: "HTTP/1.1, everything and JWT", service: "jwt", path: "/api/v1/items", fields: bearer, yaml: func() string { return fullYAML("jwt") + jwtYAML("jwt", private) }},
	}
	for _, n := range []int{1, 100, 1000, 5000} {
		service := fmt.Sprintf("many-%d", n)
		c := testCase{name: rules(n), service: service, path: fmt.Sprintf("/r%d/items", n), yaml: func() string { return manyYAML(service, n) }}
		if n > 1 {
			c.of = oneRule
		}
		if n == 1000 {
			c.target = 1.1
		}
		all = append(all, c)
	}
	return append(all,
		testCase{name: referenceAt, role: roleReverse, path: "/", yaml: none, rate: fixedRate},
		testCase{name: "HTTP/1.1, everything on, 5,000/s", service: "full", path: "/api/v1/items", yaml: none, rate: fixedRate, target: 0.75, of: referenceAt},
		testCase{name: "gRPC, everything on, 5,000/s", service: "grpc", grpc: true, path: "/shop.Items/Get", yaml: none, rate: fixedRate, of: referenceAt},
	)
}

func rules(n int) string {
	if n == 1 {
		return oneRule
	}
	return fmt.Sprintf("%d routes, %d rules", n, n)
}

// opaqueYAML has a service passed on as TCP.
func opaqueYAML() string {
	return `apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: opaque, namespace: bench}
spec:
  parentRefs: [{group: "", kind: Service, name: opaque, port: 80}]
  rules: [{backendRefs: [{name: opaque, port: 80}]}]
`
}

// fullYAML is a route with several rules, and ten rules of a policy, of which the last one allows.
func fullYAML(service string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s, namespace: bench}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /admin}}]
    backendRefs: [{name: %[1]s, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /api}, headers: [{name: x-canary, value: "true"}]}]
    backendRefs: [{name: %[1]s, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /api}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: api}]}}]
    backendRefs: [{name: %[1]s, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /shop.Items}}]
    backendRefs: [{name: %[1]s, port: 81}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %[1]s, namespace: bench}
spec:
  targetRefs: [{group: "", kind: Service, name: %[1]s}]
  rules:
%[2]s  - {from: [{source: {principals: [cluster.local/ns/bench/sa/client]}}], to: [{operation: {methods: [GET, POST], paths: ["/api/*", "/shop.Items/*"]}}]}
---
`, service, strings.Repeat("  - {from: [{source: {principals: [cluster.local/ns/other/sa/other]}}], to: [{operation: {methods: [PUT], paths: [\"/other/*\"]}}]}\n", 9))
}

// manyYAML is so many routes, and a policy of so many rules; the last ones are for the requests.
func manyYAML(service string, n int) string {
	var text strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&text, `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s-%d, namespace: bench}
spec:
  parentRefs: [{group: "", kind: Service, name: %s}]
  rules: [{matches: [{path: {type: PathPrefix, value: /r%d}, method: GET}], backendRefs: [{name: %s, port: 80}]}]
---
`, service, i, service, i, service)
	}
	fmt.Fprintf(&text, `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s, namespace: bench}
spec:
  targetRefs: [{group: "", kind: Service, name: %s}]
  rules:
`, service, service)
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&text, "  - {from: [{source: {principals: [cluster.local/ns/bench/sa/client]}}], to: [{operation: {methods: [GET], paths: [\"/r%d/*\"]}}]}\n", i)
	}
	return text.String()
}

// changeYAML is the route that changes under load.
func changeYAML(version int) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: change, namespace: bench}
spec:
  parentRefs: [{group: "", kind: Service, name: change}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-version, value: "%d"}]}}]
    backendRefs: [{name: change, port: 80}]
`, version)
}

// issuer makes the tokens.
const issuer = "https://issuer.example"

var signer = func() func() *rsa.PrivateKey {
	var key *rsa.PrivateKey
	return func() *rsa.PrivateKey {
		if key == nil {
			key, _ = rsa.GenerateKey(rand.Reader, 2048) // never fails
		}
		return key
	}
}()

func encoded(p []byte) string { return base64.RawURLEncoding.EncodeToString(p) }

// sign makes a token that is valid for an hour.
func sign(key *rsa.PrivateKey) string {
	text := encoded([]byte(`{"alg":"RS256","kid":"one"}`)) + "." + encoded(fmt.Appendf(nil, `{"iss":%q,"sub":"bench","exp":%d}`, issuer, time.Now().Add(time.Hour).Unix()))
	sum := sha256.Sum256([]byte(text))
	signature, _ := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:]) // the key is long enough
	return text + "." + encoded(signature)
}

// jwtYAML has tokens checked.
func jwtYAML(service string, key *rsa.PrivateKey) string {
	jwks := fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"one","alg":"RS256","n":"%s","e":"%s"}]}`, encoded(key.N.Bytes()), encoded(big.NewInt(int64(key.E)).Bytes()))
	return fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: %[1]s, namespace: bench}
spec:
  targetRefs: [{group: "", kind: Service, name: %[1]s}]
  jwtRules: [{issuer: %[2]q, jwks: '%[3]s'}]
`, service, issuer, jwks)
}
