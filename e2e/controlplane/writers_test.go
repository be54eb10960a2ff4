package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
)

var (
	serviceKind   = schema.GroupVersionKind{Version: "v1", Kind: "Service"}
	configMapKind = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
)

// entry is a ServiceEntry that wants an address.
func entry(name, host string) string {
	return fmt.Sprintf("---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: %s, namespace: shop}, spec: {hosts: [%s], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}}\n", name, host)
}

// allow is a policy that only says who may come in.
func allow(name string) string {
	return fmt.Sprintf("---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: %s, namespace: shop}, spec: {rules: [{from: [{source: {namespaces: [shop]}}]}]}}\n", name)
}

// condition waits until an object has a condition that passes the check, and returns the object.
func (w *world) condition(kind schema.GroupVersionKind, name, condition string, check func(map[string]any) error) *unstructured.Unstructured {
	w.t.Helper()
	var object *unstructured.Unstructured
	w.eventually(fmt.Sprintf("condition %s of %s %s", condition, kind.Kind, name), func(ctx context.Context) (err error) {
		if object, err = w.Get(ctx, kind, "shop", name); err != nil {
			return err
		}
		found := conditionOf(object, condition)
		if found == nil {
			return errors.New("it has none")
		}
		return check(found)
	})
	return object
}

func conditionOf(o *unstructured.Unstructured, kind string) map[string]any {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range list {
		if c, _ := item.(map[string]any); c["type"] == kind {
			return c
		}
	}
	return nil
}

func isTrue(c map[string]any) error {
	if c["status"] != "True" {
		return fmt.Errorf("%v", c)
	}
	return nil
}

func isFalse(c map[string]any) error {
	if c["status"] != "False" || c["message"] == "" {
		return fmt.Errorf("%v", c)
	}
	return nil
}

// addresses waits until each of an entry's hosts has an address of either family.
func (w *world) addresses(name string) []string {
	w.t.Helper()
	var found []string
	w.eventually("addresses of "+name, func(ctx context.Context) error {
		o, err := w.Get(ctx, entryKind, "shop", name)
		if err != nil {
			return err
		}
		list, _, err := unstructured.NestedSlice(o.Object, "status", "addresses")
		found = nil
		four, six := 0, 0
		for _, item := range list {
			value, _ := item.(map[string]any)["value"].(string)
			found = append(found, value)
			ip, parseErr := netip.ParseAddr(value)
			err = errors.Join(err, parseErr)
			switch {
			case netip.MustParsePrefix("240.240.0.0/16").Contains(ip):
				four++
			case netip.MustParsePrefix("2001:2::/48").Contains(ip):
				six++
			}
		}
		if err == nil && (four == 0 || four != six || four+six != len(list)) {
			err = fmt.Errorf("have %v", found)
		}
		return err
	})
	slices.Sort(found)
	return found
}

// rooted waits until a namespace has the roots of the control plane.
func (w *world) rooted(namespace string) *unstructured.Unstructured {
	w.t.Helper()
	var object *unstructured.Unstructured
	w.eventually("roots in "+namespace, func(ctx context.Context) (err error) {
		if object, err = w.Get(ctx, configMapKind, namespace, "istio-ca-root-cert"); err != nil {
			return err
		}
		text, _, _ := unstructured.NestedString(object.Object, "data", "root-cert.pem")
		if !strings.HasPrefix(text, "-----BEGIN CERTIFICATE") || object.GetLabels()["istio.io/config"] != "true" {
			return fmt.Errorf("labels %v, text %q", object.GetLabels(), text)
		}
		return nil
	})
	return object
}

func TestConditionsComeChangeAndGo(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	w.replica("istiod")
	const service = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {%s}}
spec: {selector: {app: web}, ports: [{port: 80}]}
`
	w.apply(fmt.Sprintf(service, "istio.io/use-waypoint: nowhere"))
	w.condition(serviceKind, "web", "istio.io/WaypointBound", isFalse)

	// Another controller's condition comes beside it, and ours goes without it.
	other := `{"status":{"conditions":[{"type":"example.com/Other","status":"True","reason":"R","message":"m","lastTransitionTime":"2020-01-01T00:00:00Z"}]}}`
	if _, err := w.Client().CoreV1().Services("shop").Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(other), metav1.PatchOptions{FieldManager: "other"}, "status"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Client().CoreV1().Services("shop").Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"labels":{"istio.io/use-waypoint":null}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the condition to go", func(ctx context.Context) error {
		o, err := w.Get(ctx, serviceKind, "shop", "web")
		if err == nil && conditionOf(o, "istio.io/WaypointBound") != nil {
			err = errors.New("it is there")
		}
		if err == nil && conditionOf(o, "example.com/Other") == nil {
			t.Fatal("the other's condition went")
		}
		return err
	})

	w.apply(allow("p"))
	before := conditionOf(w.condition(policyKind, "p", "ZtunnelAccepted", isTrue), "ZtunnelAccepted")
	w.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {rules: [{from: [{source: {namespaces: [other]}}]}]}}")
	after := conditionOf(w.condition(policyKind, "p", "ZtunnelAccepted", func(c map[string]any) error {
		if fmt.Sprint(c["observedGeneration"]) != "2" {
			return fmt.Errorf("%v", c)
		}
		return nil
	}), "ZtunnelAccepted")
	if before["lastTransitionTime"] != after["lastTransitionTime"] {
		t.Errorf("the time of transition was %v, is %v", before["lastTransitionTime"], after["lastTransitionTime"])
	}
}

// While nothing is heard of the API server, so that what went and what came is heard of together.
func TestAnObjectMadeAnewIsToldAtOnceWhatTheOneBeforeWas(t *testing.T) {
	w := newWorld(t)
	link, err := w.Link()
	if err != nil {
		t.Fatal(err)
	}
	const count = 50
	var policies strings.Builder
	for i := range count {
		policies.WriteString(allow(fmt.Sprint("p", i)))
	}
	w.apply(shop + policies.String())
	w.start(replicaSpec{User: apiserver.User{Through: link}}).ready()
	told := func() {
		t.Helper()
		for i := range count {
			w.says(policyKind, "shop", fmt.Sprint("p", i), "ZtunnelAccepted", "True Accepted")
		}
	}
	told()
	link.Block()
	w.delete(policies.String())
	w.apply(policies.String())
	link.Unblock()
	told()
}

func TestOfTwoEntriesWithOneAddressTheYoungerGetsAnother(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	first := w.replica("istiod-a")
	w.apply(entry("older", "older.example.com"))
	held := w.addresses("older")
	first.stop()
	// As two leaders at once would have left it, or somebody's hand.
	w.apply(entry("younger", "younger.example.com"))
	var list []string
	for _, ip := range held {
		list = append(list, fmt.Sprintf(`{"host":"younger.example.com","value":%q}`, ip))
	}
	patch := fmt.Sprintf(`{"status":{"addresses":[%s]}}`, strings.Join(list, ","))
	resource := entryKind.GroupVersion().WithResource("serviceentries")
	if _, err := w.Dynamic().Resource(resource).Namespace("shop").Patch(t.Context(), "younger", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	w.replica("istiod-b")
	w.eventually("another address for the younger", func(context.Context) error {
		if got := w.addresses("younger"); slices.ContainsFunc(got, func(ip string) bool { return slices.Contains(held, ip) }) {
			return fmt.Errorf("have %v", got)
		}
		return nil
	})
	if again := w.addresses("older"); !slices.Equal(held, again) {
		t.Errorf("the older's addresses were %v, are %v", held, again)
	}
}

func TestRootsAreInEveryNamespaceAndPutRight(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: local-path-storage}}")
	w.replica("istiod")
	want := w.rooted("shop").Object["data"]
	w.rooted("kube-system")
	w.rooted(system)
	maps := w.Client().CoreV1().ConfigMaps("shop")
	if err := maps.Delete(t.Context(), "istio-ca-root-cert", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.rooted("shop")
	if _, err := maps.Patch(t.Context(), "istio-ca-root-cert", types.MergePatchType, []byte(`{"metadata":{"labels":{"istio.io/config":null}},"data":{"root-cert.pem":"-----BEGIN CERTIFICATE of another","more":"x"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the change to be put right", func(context.Context) error {
		text, _, _ := unstructured.NestedString(w.rooted("shop").Object, "data", "root-cert.pem")
		if text != want.(map[string]any)["root-cert.pem"] {
			return fmt.Errorf("holds %q", text)
		}
		return nil
	})
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: late}}")
	w.rooted("late")
	for _, namespace := range []string{"kube-public", "local-path-storage"} {
		if _, err := w.Get(t.Context(), configMapKind, namespace, "istio-ca-root-cert"); !apierrors.IsNotFound(err) {
			t.Errorf("%s: error %v, want none to be there", namespace, err)
		}
	}
	// A namespace with the roots in it can go.
	if err := w.Client().CoreV1().Namespaces().Delete(t.Context(), "late", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the namespace to go", func(ctx context.Context) error {
		_, err := w.Client().CoreV1().Namespaces().Get(ctx, "late", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
}

func TestRootsOnlyWhereTheMeshIs(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: plain}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}")
	w.replica("istiod", "--roots-in-mesh-only")
	w.rooted("shop")
	w.rooted(system)
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: late, labels: {istio.io/dataplane-mode: ambient}}}")
	w.rooted("late")
	if _, err := w.Get(t.Context(), configMapKind, "plain", "istio-ca-root-cert"); !apierrors.IsNotFound(err) {
		t.Errorf("error %v, want none to be there", err)
	}
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: plain, labels: {istio.io/dataplane-mode: ambient}}}")
	w.rooted("plain")
}
