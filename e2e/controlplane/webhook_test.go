package controlplane

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var hookKind = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"}

// The configurations that charts install: for objects without a revision, and for those of the default one.
const byDefault, byRevision = "istiod-default-validator", "istio-validator-istio-system"

// installed is what a chart installs for the webhook, but that the API server reaches it by an address.
func installed(name, addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	webhook, selector := "validation.istio.io", "operator: DoesNotExist"
	if name == byRevision {
		webhook, selector = "rev.validation.istio.io", "operator: In, values: [default]"
	}
	return fmt.Sprintf(`---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %s}
webhooks:
- name: %s
  clientConfig: {url: "https://localhost:%s/validate"}
  rules:
  - {operations: [CREATE, UPDATE], apiGroups: [security.istio.io, networking.istio.io], apiVersions: ["*"], resources: ["*"]}
  failurePolicy: Ignore
  sideEffects: None
  timeoutSeconds: 5
  admissionReviewVersions: [v1]
  objectSelector:
    matchExpressions:
    - {key: istio.io/rev, %s}
`, name, webhook, port, selector)
}

// wrongPolicy can't be meant; it takes labels.
const wrongPolicy = `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: wrong, namespace: shop, labels: {%s}}, spec: {rules: [{from: [{source: {ipBlocks: [localhost]}}]}]}}`

// hook reads the webhook of a configuration: what happens when it can't be asked, and whom the API server trusts.
func (w *world) hook(ctx context.Context, name string) (policy, bundle string, err error) {
	o, err := w.Get(ctx, hookKind, "", name)
	if err != nil {
		return "", "", err
	}
	hook := o.Object["webhooks"].([]any)[0].(map[string]any)
	bundle, _, _ = unstructured.NestedString(hook, "clientConfig", "caBundle")
	return fmt.Sprint(hook["failurePolicy"]), bundle, nil
}

// closed waits until a configuration refuses what can't be checked.
func (w *world) closed(name string) {
	w.t.Helper()
	w.eventually(name+" to be closed", func(ctx context.Context) error {
		policy, bundle, err := w.hook(ctx, name)
		if err == nil && (policy != "Fail" || bundle == "") {
			err = fmt.Errorf("policy %s, bundle %q", policy, bundle)
		}
		return err
	})
}

// refuses asks for objects that must not be taken.
func (w *world) refuses(yaml string, words ...string) {
	w.t.Helper()
	w.eventually("a refusal", func(ctx context.Context) error {
		err := w.Apply(ctx, yaml)
		if err == nil {
			w.t.Fatalf("taken: %s", yaml)
		}
		if !containsAll(err.Error(), words) {
			return errors.Join(err, fmt.Errorf("want it to say %q", words))
		}
		return nil
	})
}

// As our charts install it.
func TestAConfigurationThatIsInstalledClosedServesWithTheControlPlane(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	at := freeAddr(t)
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n" + strings.Replace(installed(byDefault, at), "failurePolicy: Ignore", "failurePolicy: Fail", 1))
	w.refuses(allow("good"), "failed calling webhook")

	w.replica("istiod", "--webhook-address", at)
	w.eventually("what is right to be taken", func(ctx context.Context) error { return w.Apply(ctx, allow("good")) })
	w.refuses(fmt.Sprintf(wrongPolicy, ""), "denied the request", `have "localhost"`)
}

func TestTheWebhookIsTestedBeforeItIsReliedOn(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	at := freeAddr(t)
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n" + installed(byDefault, at) + installed(byRevision, at))

	// Nobody serves: objects pass, so that nothing is locked out.
	w.apply(fmt.Sprintf(wrongPolicy, ""))
	w.delete(fmt.Sprintf(wrongPolicy, ""))

	r := w.replica("istiod", "--webhook-address", at)
	w.closed(byDefault)
	w.closed(byRevision)
	for _, labels := range []string{"", "istio.io/rev: default"} {
		w.refuses(fmt.Sprintf(wrongPolicy, labels), "denied the request", `spec.rules[0].from[0].source.ipBlocks[0]`, `have "localhost"`)
	}
	w.refuses(`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: wrong, namespace: shop}, spec: {hosts: [a.example.com], addresses: [1.2.3.400]}}`, "denied the request", "spec.addresses[0]")
	w.refuses(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: wrong, namespace: shop}, spec: {selector: {matchLabels: {"a/b/c": x}}}}`, "denied the request", "a/b/c")
	w.apply(allow("good"))

	// Installed anew, and with somebody else's roots, it is put right.
	foreign := base64.StdEncoding.EncodeToString(w.Config().CAData)
	w.apply(strings.Replace(installed(byDefault, at), "clientConfig: {", "clientConfig: {caBundle: "+foreign+", ", 1))
	w.eventually("the foreign roots to be replaced", func(ctx context.Context) error {
		_, bundle, err := w.hook(ctx, byDefault)
		if err == nil && bundle == foreign {
			err = errors.New("they are there")
		}
		return err
	})
	w.closed(byDefault)
	w.eventually("the API server to hear of it", func(ctx context.Context) error { return w.Apply(ctx, allow("also-good")) })

	// With nobody to ask, nothing passes unchecked.
	r.stop()
	w.refuses(allow("unchecked"), "failed calling webhook")
}

// TestAWebhookThatNobodyHeedsStaysOpen: it would lock everybody out.
func TestAWebhookThatNobodyHeedsStaysOpen(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	served, elsewhere := freeAddr(t), freeAddr(t)
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n" + installed(byDefault, elsewhere))
	r := w.replica("istiod", "--webhook-address", served)
	r.logged(byDefault+" stays open", "the API server took an object that is known to be wrong", "attempts=3")
	if policy, bundle, err := w.hook(t.Context(), byDefault); err != nil || policy != "Ignore" || bundle == "" {
		t.Errorf("policy %s, bundle %q, %v", policy, bundle, err)
	}
	w.apply(allow("good"))
	// Once the API server finds it, it closes.
	w.apply(installed(byDefault, served))
	w.closed(byDefault)
	w.refuses(fmt.Sprintf(wrongPolicy, ""), "denied the request")
}

// Roots of 20 s: the next one is announced after 10 s, and signs after 15 s.
func TestWritesPassWhileTheWebhooksRootIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	at := freeAddr(t)
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n" + installed(byDefault, at))
	w.start(replicaSpec{Args: []string{"--webhook-address", at}, Env: []string{
		"CITADEL_SELF_SIGNED_CA_CERT_TTL=20s", "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE=50",
		"CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL=300ms",
	}}).ready()
	w.closed(byDefault)
	w.eventually("the API server to ask", func(ctx context.Context) error { return w.Apply(ctx, allow("good")) })
	signers := map[string]bool{}
	writes := 0
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w.await(ctx, "two new roots to sign", func(ctx context.Context) error {
		writes++
		w.apply(allow(fmt.Sprintf("good-%d", writes)))
		signer, err := w.signer(ctx)
		if err != nil {
			return err
		}
		if signers[signer] = true; len(signers) < 3 {
			return fmt.Errorf("%d roots have signed", len(signers))
		}
		return nil
	})
	w.refuses(fmt.Sprintf(wrongPolicy, ""), "denied the request")
	w.eventually("the bundle to have the root that signs", func(ctx context.Context) error {
		signer, err := w.signer(ctx)
		if err != nil {
			return err
		}
		_, bundle, err := w.hook(ctx, byDefault)
		text, decodeErr := base64.StdEncoding.DecodeString(bundle)
		if err = errors.Join(err, decodeErr); err == nil && !strings.Contains(string(text), strings.TrimSpace(signer)) {
			err = errors.New("it has others")
		}
		return err
	})
	t.Logf("%d writes", writes)
}
