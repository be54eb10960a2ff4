package controlplane

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// TestTheRightsOfTheManifestAreEnoughAndAllNeeded: nothing that istiod-lite asks for is refused, and every right is used.
func TestTheRightsOfTheManifestAreEnoughAndAllNeeded(t *testing.T) {
	spec := everything()
	spec.Audit = true
	spec.Lists = true // what a server streams needs no right to list it
	w := ownWorld(t, spec)
	w.authorize()
	at := freeAddr(t)
	w.apply(installed(byDefault, at) + installed(byRevision, at))
	w.apply(fmt.Sprintf(wrongPolicy, "")) // somebody stored it before the webhook was there
	user := apiserver.User{Namespace: system, Account: "istiod"}
	r := w.start(replicaSpec{
		Name: "istiod-1", User: user, Args: []string{"--webhook-address", at},
		// The next root is announced after 15 s.
		Env: []string{"CITADEL_SELF_SIGNED_CA_CERT_TTL=60s", "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE=75", "CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL=500ms"},
	}).ready()
	w.live(r)
	w.eventually("the next root", func(ctx context.Context) error {
		secret, err := w.Client().CoreV1().Secrets(system).Get(ctx, "istio-ca-secret", metav1.GetOptions{})
		if err == nil && len(secret.Data["next-cert.pem"]) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	r.stop()
	// Another leads, with an authority that is plugged in, and revokes certificates.
	w.start(replicaSpec{Name: "istiod-2", User: user, Args: []string{"--cacerts", revoking(t)}}).ready()
	w.eventually("what was revoked", func(ctx context.Context) error {
		_, err := w.Client().CoreV1().ConfigMaps("shop").Get(ctx, "istio-ca-crl", metav1.GetOptions{})
		return err
	})
	all, err := apiserver.Rights(manifest)
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("every right to be used", func(context.Context) error { return apiserver.Unused(all, w.requests(), system) })
	for _, request := range w.forbidden() {
		t.Errorf("refused: %s", request)
	}
}

// revoking makes a folder with an authority and its list of revoked certificates.
func revoking(t *testing.T) string {
	t.Helper()
	root, dir := newAuthority(t, "root", nil), t.TempDir()
	plug(t, dir, root, root)
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Now()}},
	}, root.cert, root.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca-crl.pem"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// live makes a control plane do all that it does.
func (w *world) live(r *replica) {
	w.t.Helper()
	w.closed(byDefault)
	w.closed(byRevision)
	w.apply(pod("shop", "web", "node1", "10.1.0.1", true) + allow("good") + entry("e", "e.example.com") + `---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: nowhere}}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop, labels: {istio.io/use-waypoint: nowhere}}, spec: {address: 10.9.0.1}}
---
{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: jwt, namespace: shop}, spec: {targetRefs: [{group: "", kind: Service, name: web}], jwtRules: [{issuer: "https://one.example", jwksUri: "https://one.example/keys"}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: r, namespace: shop}, spec: {targetRefs: [{group: "", kind: Service, name: web}], validation: {hostname: web.example, wellKnownCACertificates: System}}}
`)
	routes := []string{"GRPCRoute", "HTTPRoute", "TCPRoute", "TLSRoute"}
	for _, kind := range routes {
		hosts := ""
		if kind == "TLSRoute" {
			hosts = "hostnames: [web.example.com], "
		}
		w.apply(fmt.Sprintf("{apiVersion: gateway.networking.k8s.io/v1, kind: %s, metadata: {name: r, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}], %srules: [{backendRefs: [{name: web, port: 80}]}]}}", kind, hosts))
	}
	w.condition(policyKind, "good", "ZtunnelAccepted", isTrue)
	w.condition(policyKind, "wrong", "ZtunnelAccepted", isFalse)
	w.condition(serviceKind, "web", "istio.io/WaypointBound", isFalse)
	w.condition(vmKind, "vm", "istio.io/WaypointBound", isFalse)
	w.condition(jwtKind, "jwt", "WaypointAccepted", isFalse)
	for _, kind := range routes {
		w.eventually("a word about "+kind, func(ctx context.Context) error {
			parents, err := w.parents(ctx, kind, "r")
			if err == nil && len(parents) == 0 {
				err = errors.New("there is none")
			}
			return err
		})
	}
	w.eventually("a word about the BackendTLSPolicy", func(ctx context.Context) error {
		ancestors, err := w.saysOf(ctx, "BackendTLSPolicy", "r", "ancestors", "ancestorRef")
		if err == nil && len(ancestors) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	w.addresses("e")
	w.rooted("shop")
	w.deployed()
	w.eventually("an event about what is wrong", func(ctx context.Context) error {
		events, err := w.Client().CoreV1().Events("shop").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=wrong,reason=Invalid"})
		if err == nil && len(events.Items) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	p := w.join(r, "node1").settled()
	p.workload(podName("shop", "web"), nil)
	request, err := delta.Request()
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.identity("node1").Sign(w.t.Context(), w.dial(r), request, webID); err != nil {
		w.t.Error(err)
	}
}
