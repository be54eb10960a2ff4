package status

import (
	"log/slog"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func writer() *Writer {
	return New(Config{Types: ambient.types, Controllers: ambient.controllers, Revisions: []string{"default"}, Log: slog.New(slog.DiscardHandler)})
}

func TestStatusOfAnotherRevisionIsLeftAlone(t *testing.T) {
	w := writer()
	key := model.Key{Kind: model.KindServiceEntry, Name: model.Name{Namespace: "apps", Name: "db"}}
	object := func(revision string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{"status": parse(t, ours)}}
		if revision != "" {
			o.SetLabels(map[string]string{"istio.io/rev": revision})
		}
		return o
	}
	for revision, want := range map[string]bool{"": true, "default": true, "canary": false} {
		if got := len(w.changes(key, object(revision))) > 0; got != want {
			t.Errorf("of revision %q: taken away: %v", revision, got)
		}
	}
	w.Set(key, 1, []model.Condition{bound(false, "WaypointIsNotReady", "m")})
	if len(w.changes(key, object("canary"))) == 0 {
		t.Error("what there is to say isn't said")
	}
}

func TestWishesThatAskForNothingAreForgotten(t *testing.T) {
	w := writer()
	key := model.Key{Kind: model.KindService, Name: model.Name{Namespace: "apps", Name: "web"}}
	w.Set(key, 0, nil)
	w.Set(key, 0, []model.Condition{bound(true, "WaypointAccepted", "")})
	w.Set(key, 0, nil)
	if len(w.wishes) > 0 {
		t.Errorf("%v", w.wishes)
	}
}
