package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/mesh/folder"
)

func TestWhoIsEnrolled(t *testing.T) {
	full, short := labels{"istio.io/dataplane-mode": "ambient"}, labels{"dataplane-mode": "ambient"}
	none, shortNone := labels{"istio.io/dataplane-mode": "none"}, labels{"dataplane-mode": "none"}
	cases := []struct {
		name      string
		pod       object
		namespace labels
		want      bool
		why       string
	}{
		{"labelled namespace", object{namespace: "demo"}, full, true, "label on the namespace"},
		{"labelled namespace, short", object{namespace: "demo"}, short, true, "label on the namespace"},
		{"labelled pod", object{namespace: "demo", labels: full}, nil, true, "label on the pod"},
		{"labelled pod, short", object{namespace: "demo", labels: short}, nil, true, "label on the pod"},
		{"nothing labelled", object{namespace: "demo"}, nil, false, "neither pod nor namespace"},
		{"other mode", object{namespace: "demo"}, labels{"istio.io/dataplane-mode": "sidecar"}, false, "neither pod nor namespace"},
		{"opted out", object{namespace: "demo", labels: none}, full, false, "opted out"},
		{"opted out, short", object{namespace: "demo", labels: shortNone}, full, false, "opted out"},
		{"the full name wins on the pod", object{namespace: "demo", labels: labels{"istio.io/dataplane-mode": "none", "dataplane-mode": "ambient"}}, full, false, "opted out"},
		{"the full name wins on the namespace", object{namespace: "demo"}, labels{"istio.io/dataplane-mode": "none", "dataplane-mode": "ambient"}, false, "neither"},
		{"host network", object{namespace: "demo", labels: full, hostNetwork: true}, full, false, "host's network"},
		{"sidecar", object{namespace: "demo", labels: full, sidecar: true}, full, false, "sidecar"},
		{"kube-system", object{namespace: "kube-system", labels: full}, full, false, "excluded"},
		{"completed job", object{namespace: "demo", labels: full, ended: true}, full, false, "has ended"},
		{"the tunnel proxy itself", object{namespace: "istio-system", labels: labels{"app": "ztunnel"}}, full, false, "tunnel proxy"},
		{"another pod of its namespace", object{namespace: "istio-system"}, full, true, "label on the namespace"},
		{"its name elsewhere", object{namespace: "demo", labels: labels{"app": "ztunnel"}}, full, true, "label on the namespace"},
	}
	for _, c := range cases {
		got, why := eligible(c.pod, c.namespace)
		if got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v because %q, want %v because %q", c.name, got, why, c.want, c.why)
		}
	}
}

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
	var got []object
	err = folder.Watch(ctx, dir, folder.Config[object]{
		Decode: decode,
		Apply:  func(objects []object) { got = objects; cancel() },
		Report: func(err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []object{
		{kind: "Namespace", name: "demo", account: "default", labels: labels{"istio.io/dataplane-mode": "ambient"}},
		{
			kind: "Pod", namespace: "demo", name: "cart", uid: "6f1c", labels: labels{"app": "cart"}, node: "node1", account: "shop",
			netns: "/run/netns/cart", hostNetwork: true, sidecar: true, ended: true,
		},
		{kind: "Pod", namespace: "default", name: "bare", account: "default"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(object{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if p := got[1].pod(); p != (Pod{UID: "6f1c", Namespace: "demo", Name: "cart", ServiceAccount: "shop"}) {
		t.Errorf("pod is %+v", p)
	}
	if p := got[2].pod(); p.UID != "default/bare" {
		t.Errorf("uid of a pod without one is %q", p.UID)
	}
}

func TestPlacesOfPodsSurviveARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "status", ".node1.netns")
	p := newPaths(file)
	if err := p.load(); err != nil {
		t.Fatal(err)
	}
	for uid, path := range map[string]string{"1": "/run/netns/a", "2": "/run/netns/b"} {
		if err := p.put(uid, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.forget("2"); err != nil {
		t.Fatal(err)
	}
	p = newPaths(file)
	if err := p.load(); err != nil {
		t.Fatal(err)
	}
	if p.get("1") != "/run/netns/a" || p.get("2") != "" {
		t.Errorf("remembered %v", p.byUID)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newPaths(file).load(); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a broken file: error is %v", err)
	}
}
