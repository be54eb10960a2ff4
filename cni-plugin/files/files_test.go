package files

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
)

func TestObjectsAreReadAsKubernetesWritesThem(t *testing.T) {
	dir := t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(`
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart
  namespace: demo
  uid: 6f1c
  labels: {app: cart}
  annotations: {tulle.dev/netns: /run/netns/cart, sidecar.istio.io/status: "{}"}
spec:
  nodeName: node1
  hostNetwork: true
  serviceAccountName: shop
  containers: [{name: app, image: example, ports: [{containerPort: 80}]}]
status: {phase: Succeeded, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: bare}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other, namespace: demo}
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var got pods.Set
	err = Follow(ctx, dir, slog.New(slog.DiscardHandler), func(s pods.Set) { got = s; cancel() })
	if err != nil {
		t.Fatal(err)
	}
	want := pods.Set{
		Namespaces: map[string]pods.Labels{"demo": {"istio.io/dataplane-mode": "ambient"}},
		Pods: []pods.Pod{
			{ID: pods.ID{UID: "default/bare", Namespace: "default", Name: "bare", ServiceAccount: "default"}},
			{
				ID: pods.ID{UID: "6f1c", Namespace: "demo", Name: "cart", ServiceAccount: "shop"}, Node: "node1", Netns: "/run/netns/cart",
				Labels: pods.Labels{"app": "cart"}, Annotations: pods.Labels{"tulle.dev/netns": "/run/netns/cart", "sidecar.istio.io/status": "{}"},
				IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, HostNetwork: true, Ended: true,
			},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
