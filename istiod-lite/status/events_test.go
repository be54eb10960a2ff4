package status

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func TestEventNamesItsObjectAndTheRemedy(t *testing.T) {
	service, _ := describe(model.KindService)
	about := model.Name{Namespace: "apps", Name: "reviews"}
	trouble := Trouble{"u1", "Invalid", "spec.ports[0].port: port 0 is not within 1 to 65535"}
	got := event(service, about, trouble, "istiod-1", now)
	want := map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"namespace": "apps", "name": got.GetName()},
		"involvedObject": map[string]any{"apiVersion": "v1", "kind": "Service", "namespace": "apps", "name": "reviews", "uid": "u1"},
		"type":           "Warning", "reason": "Invalid", "message": "spec.ports[0].port: port 0 is not within 1 to 65535",
		"source": map[string]any{"component": "istiod-lite", "host": "istiod-1"}, "reportingComponent": "istiod-lite", "reportingInstance": "istiod-1",
		"firstTimestamp": "2026-05-06T07:08:09Z", "lastTimestamp": "2026-05-06T07:08:09Z", "count": int64(1),
	}
	if diff := cmp.Diff(want, got.Object); diff != "" {
		t.Error(diff)
	}
	if again := event(service, about, trouble, "istiod-2", now.AddDate(0, 0, 1)); again.GetName() != got.GetName() {
		t.Error("the same trouble has another name when another says it")
	}
	if other := event(service, about, Trouble{"u1", "Invalid", "another"}, "istiod-1", now); other.GetName() == got.GetName() {
		t.Error("another trouble has the same name")
	}
}

func TestEventAboutAnObjectOfNoNamespaceIsInDefault(t *testing.T) {
	node, _ := describe(model.KindNode)
	if got := event(node, model.Name{Name: "n1"}, Trouble{"u1", "Invalid", "m"}, "i", now).GetNamespace(); got != "default" {
		t.Errorf("namespace %q", got)
	}
}
