package status

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/queue"
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

// Somebody may make an object anew before anybody has noticed that the one before went; what that was told is still to be said.
func TestAnotherObjectOfTheNameIsToldTheSame(t *testing.T) {
	w := writer()
	worked := make(chan model.Key)
	w.queue = queue.New(func(_ context.Context, key model.Key) error { worked <- key; return nil }, w.cfg.Log)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	key := model.Key{Kind: model.KindService, Name: model.Name{Namespace: "apps", Name: "web"}}
	last := model.Key{Kind: model.KindService, Name: model.Name{Namespace: "apps", Name: "last"}}
	go func() {
		defer close(ran)
		w.queue.Run(ctx, func(context.Context) {
			wish := []model.Condition{bound(true, "WaypointAccepted", "")}
			w.Set(key, 1, wish)
			<-worked
			w.Set(key, 1, wish)
			w.Set(last, 1, wish)
			if next := <-worked; next != last {
				t.Errorf("%s was written again", next)
			}
			w.Forget(key)
			w.Set(key, 1, wish)
			select {
			case <-worked:
			case <-time.After(10 * time.Second):
				t.Error("nobody writes it")
			}
			cancel()
		})
	}()
	<-ran
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
