package l7

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// policy is an AuthorizationPolicy of the shop.
func policy(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: shop}\nspec: %s\n", name, spec)
}

const (
	ofEcho   = `targetRefs: [{group: "", kind: Service, name: echo}]`
	ofV1     = `targetRefs: [{group: "", kind: Service, name: v1}]`
	ofAll    = `targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]`
	byClient = `{source: {principals: [cluster.local/ns/shop/sa/client]}}`
)

// peerAuthentication is one of the shop.
func peerAuthentication(spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: mode, namespace: shop}\nspec: " + spec + "\n"
}

// How servers take connections is no matter to who comes through their waypoint.
func TestPeerAuthentication(t *testing.T) {
	for _, test := range []struct {
		name, spec string
		plain      int // what a client without the mesh gets
	}{
		{"permissive", "{mtls: {mode: PERMISSIVE}}", 200},
		{"strict", "{mtls: {mode: STRICT}}", 0},
		{"strict for servers", "{selector: {matchLabels: {app: echo}}, mtls: {mode: STRICT}}", 0},
		{"strict, but for the port", "{selector: {matchLabels: {app: echo}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}", 200},
		{"permissive, but for the port", "{selector: {matchLabels: {app: echo}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {8080: {mode: STRICT}}}", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			with(t, peerAuthentication(test.spec))
			plain.gets(t, test.plain, "http://echo.shop/")
			client.through(t, "waypoint", "http://echo.shop/")
		})
	}
}

// What only L7 tells is allowed at the waypoint, whose identity servers may ask for.
func TestAuthorizationL4(t *testing.T) {
	with(t, policy("by-identity", "{"+ofEcho+", rules: [{from: ["+byClient+"]}]}"))
	other.gets(t, 403, "http://echo.shop/")
	client.through(t, "waypoint", "http://echo.shop/")
	other.gets(t, 0, "tcp://echo.shop:9090")
}

func TestAuthorizationServiceAttached(t *testing.T) {
	with(t, policy("denied", "{action: DENY, "+ofV1+", rules: [{from: ["+byClient+"]}]}"))
	client.gets(t, 403, "http://v1.shop/")
	other.through(t, "waypoint", "http://v1.shop/")
	client.through(t, "waypoint", "http://v2.shop/")
}

func TestAuthorizationGateway(t *testing.T) {
	with(t, policy("denied", "{action: DENY, "+ofAll+", rules: [{from: ["+byClient+"]}]}"))
	client.gets(t, 403, "http://v1.shop/")
	client.gets(t, 403, "http://v2.shop/")
	other.through(t, "waypoint", "http://v1.shop/")
}

func TestAuthorizationWaypointDefaultDeny(t *testing.T) {
	t.Run("AtServers", func(t *testing.T) {
		const servers = "selector: {matchLabels: {app: echo}}"
		with(t, policy("nobody", "{"+servers+"}"))
		client.gets(t, 503, "http://echo.shop/")
		with(t, policy("the-waypoint", "{"+servers+", rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/waypoint]}}]}]}"))
		client.through(t, "waypoint", "http://echo.shop/")
		client.gets(t, 0, "http://direct.shop/")
	})
	t.Run("AtTheWaypoint", func(t *testing.T) {
		before := counted(t, "waypoint", "istio_requests_total", `response_code="403"`)
		with(t, policy("nobody", "{"+ofAll+"}"))
		client.gets(t, 403, "http://echo.shop/")
		passed(t, "waypoint", "istio_requests_total", before+1, `response_code="403"`)
	})
}

func TestAuthorizationL7(t *testing.T) {
	with(t, policy("allow", "{"+ofEcho+`, rules: [
		{to: [{operation: {paths: [/path]}}]},
		{to: [{operation: {paths: [/start/*]}}]},
		{to: [{operation: {methods: [PUT]}}]},
		{to: [{operation: {hosts: [host.example]}}]},
		{from: [`+byClient+`], to: [{operation: {paths: [/identity]}}]},
		{to: [{operation: {paths: [/header]}}], when: [{key: "request.headers[x-pass]", values: ["yes*"]}]}]}`)+
		policy("deny", "{action: DENY, "+ofEcho+", rules: [{to: [{operation: {paths: [/start/denied]}}]}]}"))
	other.gets(t, 403, "http://echo.shop/identity") // all of it is in force
	client.gets(t, 403, "http://echo.shop/start/denied")
	for name, test := range map[string]struct {
		from pod
		want int
		args []string
	}{
		"Path":            {other, 200, []string{"/path"}},
		"PathPrefix":      {other, 200, []string{"/start/anything"}},
		"Method":          {other, 200, []string{"/", "--method=PUT"}},
		"Host":            {other, 200, []string{"/", "-H", "Host:host.example"}},
		"Identity":        {client, 200, []string{"/identity"}},
		"AnotherIdentity": {other, 403, []string{"/identity"}},
		"Header":          {other, 200, []string{"/header", "-H", "x-pass:yes, please"}},
		"AnotherHeader":   {other, 403, []string{"/header", "-H", "x-pass:no"}},
		"ExplicitDeny":    {client, 403, []string{"/start/denied"}},
		"NoRule":          {client, 403, []string{"/"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"http://echo.shop" + test.args[0]}, test.args[1:]...)
			if test.want == 200 {
				test.from.through(t, "waypoint", args...)
				return
			}
			test.from.gets(t, test.want, args...)
		})
	}
}

// token makes tokens of the issuer, and keys returns those that it publishes.
func issuer(t *testing.T) (token func(subject string, expires time.Duration) string, keys string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return func(subject string, expires time.Duration) string {
		text, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: "issuer", Subject: subject, Expiry: jwt.NewNumericDate(time.Now().Add(expires))}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}, string(public)
}

func TestL7JWT(t *testing.T) {
	token, keys := issuer(t)
	with(t, "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: tokens, namespace: shop}\nspec:\n  "+ofEcho+
		"\n  jwtRules: [{issuer: issuer, jwks: '"+keys+"'}]\n"+
		policy("allow", "{"+ofEcho+", rules: [{from: [{source: {requestPrincipals: [issuer/sub-1]}}]}, {to: [{operation: {paths: [/healthz]}}]}]}"))
	client.gets(t, 403, "http://echo.shop/")
	client.gets(t, 401, "http://echo.shop/healthz", "-H", "Authorization:Bearer x.y.z")
	forge, _ := issuer(t)
	forged := forge("sub-1", time.Hour)
	for name, test := range map[string]struct {
		path, token string
		want        int
	}{
		"NoToken":          {"/", "", 403},
		"NoTokenIsNeeded":  {"/healthz", "", 200},
		"TheRightSubject":  {"/", token("sub-1", time.Hour), 200},
		"AnotherSubject":   {"/", token("sub-2", time.Hour), 403},
		"Expired":          {"/healthz", token("sub-1", -time.Hour), 401},
		"AnotherSignature": {"/", forged, 401},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"http://echo.shop" + test.path}
			if test.token != "" {
				args = append(args, "-H", "Authorization:Bearer "+test.token)
			}
			if test.want == 200 {
				client.through(t, "waypoint", args...)
				return
			}
			client.gets(t, test.want, args...)
		})
	}
}

// Servers are told who their client is by waypoints whose Gateways say so: what the client's own certificate proves, and not what it says.
func TestWaypointXFCCClientIdentity(t *testing.T) {
	const (
		header = "RequestHeader=X-Forwarded-Client-Cert:"
		forged = "-H=x-forwarded-client-cert:URI=spiffe://cluster.local/ns/shop/sa/forged"
		proven = header + "By=spiffe://cluster.local/ns/shop/sa/telling;URI=spiffe://cluster.local/ns/shop/sa/client"
	)
	if answer := client.through(t, "waypoint", "http://echo/"); strings.Contains(answer.text, header) {
		t.Errorf("servers are told without being asked\n%s", answer.text)
	}
	with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: telling, namespace: shop, annotations: {ambient.istio.io/xfcc-include-client-identity: "true"}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`)
	label(t, "service/direct", "istio.io/use-waypoint=telling", "istio.io/use-waypoint-")
	eventually(t, "the server to be told of its client", func(ctx context.Context) error {
		answer, err := client.ask(ctx, "http://direct/", forged)
		if err == nil && (!strings.Contains(answer.text, proven) || strings.Contains(answer.text, "forged")) {
			err = errors.New(answer.text)
		}
		return err
	})
	must(t, "-n", "shop", "label", "service/direct", "istio.io/use-waypoint-")
	client.around(t, "http://direct.shop/")
}
