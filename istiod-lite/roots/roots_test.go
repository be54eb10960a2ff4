package roots

import (
	"log/slog"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

// writer makes one that has seen all ConfigMaps, of which there are none.
func writer(meshed bool, revoked string) *Writer {
	w := New(Config{
		Roots: func() []byte { return []byte("roots") }, Revoked: func() []byte { return []byte(revoked) },
		Meshed: meshed, Namespace: "istio-system", Log: slog.New(slog.DiscardHandler),
	})
	w.listed = map[string]bool{RootsName: true, RevokedName: true}
	w.seen = make(map[reflector.Name]digest)
	for namespace, labels := range map[string]map[string]string{
		"apps": {mode: "ambient"}, "plain": nil, "sidecar": {mode: "none"}, "istio-system": nil,
		"kube-system": nil, "kube-public": nil, "kube-node-lease": nil, "local-path-storage": {mode: "ambient"},
	} {
		w.Put(&model.Namespace{Name: namespace, Labels: model.LabelsOf(labels)})
	}
	return w
}

const mode = meshed

func TestNamespacesThatGetTheRoots(t *testing.T) {
	for namespace, want := range map[string]struct{ everywhere, meshed bool }{
		"apps": {true, true}, "plain": {true, false}, "sidecar": {true, false}, "kube-system": {true, false}, "istio-system": {true, true},
		"kube-public": {}, "kube-node-lease": {}, "local-path-storage": {}, "unknown": {},
	} {
		t.Run(namespace, func(t *testing.T) {
			name := reflector.Name{Namespace: namespace, Name: RootsName}
			if got := writer(false, "").wanted(name) != ""; got != want.everywhere {
				t.Errorf("everywhere: %v", got)
			}
			if got := writer(true, "").wanted(name) != ""; got != want.meshed {
				t.Errorf("where meshed: %v", got)
			}
		})
	}
}

func TestNamespaceWithAWaypointNeedsTheRoots(t *testing.T) {
	w := writer(true, "")
	roots := reflector.Name{Namespace: "plain", Name: RootsName}
	a, b := model.Name{Namespace: "plain", Name: "a"}, model.Name{Namespace: "plain", Name: "b"}
	for _, step := range []struct {
		what string
		do   func()
		want bool
	}{
		{"none that was ever there went", func() { w.Waypoint(a, false) }, false},
		{"one came", func() { w.Waypoint(a, true) }, true},
		{"and another", func() { w.Waypoint(b, true); w.Waypoint(b, true) }, true},
		{"one went", func() { w.Waypoint(a, false) }, true},
		{"both went", func() { w.Waypoint(b, false) }, false},
		{"one came again", func() { w.Waypoint(b, true) }, true},
		{"the namespace went", func() { w.Drop("plain") }, false},
	} {
		if step.do(); (w.wanted(roots) != "") != step.want {
			t.Errorf("%s: it wants them: %v", step.what, !step.want)
		}
	}
	w.Waypoint(b, false)
	if len(w.waypoints) != 0 {
		t.Errorf("remembers %v", w.waypoints)
	}
}

func TestRevocationListsAreWrittenOnlyWhereThereAreAny(t *testing.T) {
	name := reflector.Name{Namespace: "apps", Name: RevokedName}
	if got := writer(false, "").wanted(name); got != "" {
		t.Errorf("writes %q", got)
	}
	if got := writer(false, "lists").wanted(name); got != "lists" {
		t.Errorf("writes %q", got)
	}
}

func TestOnlyWhatDiffersIsWritten(t *testing.T) {
	object := func(labels, data map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": RootsName, "namespace": "apps", "labels": labels}, "data": data}}
	}
	marked := map[string]any{"istio.io/config": "true"}
	for name, test := range map[string]struct {
		seen  *unstructured.Unstructured
		write bool
	}{
		"as written":             {object(marked, map[string]any{"root-cert.pem": "roots"}), false},
		"with more of others":    {object(map[string]any{"istio.io/config": "true", "team": "a"}, map[string]any{"root-cert.pem": "roots", "more": "x"}), false},
		"another root":           {object(marked, map[string]any{"root-cert.pem": "other"}), true},
		"no root":                {object(marked, nil), true},
		"under another key":      {object(marked, map[string]any{"ca.crt": "roots"}), true},
		"without its label":      {object(nil, map[string]any{"root-cert.pem": "roots"}), true},
		"with data of no string": {object(marked, map[string]any{"root-cert.pem": int64(1)}), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := writer(false, "")
			key := reflector.Name{Namespace: "apps", Name: RootsName}
			w.see(key, holds(test.seen))
			if got := w.wanted(key) != ""; got != test.write {
				t.Errorf("writes: %v", got)
			}
			w.miss(key) // somebody deleted it
			if w.wanted(key) == "" {
				t.Error("isn't made again when it is gone")
			}
		})
	}
}

// A leader that has not seen what is there yet would write everything again.
func TestNothingIsWrittenBeforeAllWasSeen(t *testing.T) {
	w := writer(false, "")
	w.listed = nil
	if got := w.wanted(reflector.Name{Namespace: "apps", Name: RootsName}); got != "" {
		t.Errorf("writes %q", got)
	}
}
