package controlplane

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// right is one verb of one resource, as a role gives it: with one of the names that it is restricted to.
type right struct {
	namespace             string // empty for all
	group, resource, verb string
	name                  string // empty for all
}

// rights reads those of the manifest.
func rights(t *testing.T) []right {
	t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var found []right
	for _, document := range strings.Split(string(text), "\n---\n") {
		var role struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Rules    []struct {
				APIGroups, Resources, ResourceNames, Verbs []string
			} `json:"rules"`
		}
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			if len(rule.ResourceNames) == 0 {
				rule.ResourceNames = []string{""}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						for _, name := range rule.ResourceNames {
							found = append(found, right{role.Metadata.Namespace, group, resource, verb, name})
						}
					}
				}
			}
		}
	}
	return found
}

// uses tells whether a request needs a right. One for all namespaces is needed if the request goes beyond the control
// plane's own.
func (r request) uses(one right) bool {
	switch {
	case r.ResponseStatus.Code == http.StatusNotFound, r.ResponseStatus.Code == http.StatusForbidden:
		return false
	case r.ObjectRef.APIGroup != one.group, r.resource() != one.resource, one.name != "" && r.ObjectRef.Name != one.name:
		return false
	case one.namespace == "" && r.ObjectRef.Namespace == system, one.namespace != "" && r.ObjectRef.Namespace != one.namespace:
		return false
	}
	// Server-side apply patches what isn't there: the API server wants the right to create it, too.
	return r.Verb == one.verb || one.verb == "create" && r.Verb == "patch" && r.ResponseStatus.Code == http.StatusCreated
}

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
	w.eventually("every right to be used", func(context.Context) error { return unused(rights(t), w.requests()) })
	for _, request := range w.forbidden() {
		t.Errorf("refused: %s", request)
	}
}

// unused names the rights that no request needs.
func unused(all []right, requests []request) error {
	var errs []error
	for _, one := range all {
		if !slices.ContainsFunc(requests, func(r request) bool { return r.uses(one) }) {
			errs = append(errs, fmt.Errorf("not used: %+v", one))
		}
	}
	return errors.Join(errs...)
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
