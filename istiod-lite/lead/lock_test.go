package lead

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var example = record{
	Holder: "istiod-1", Seconds: 30, Transitions: 2,
	Acquired: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Renewed: time.Date(2026, 1, 2, 3, 5, 6, 0, time.UTC),
}

// As written by client-go, and by Istio's control plane, which has a field of its own.
func TestRecordsOfOthersAreRead(t *testing.T) {
	for name, test := range map[string]struct {
		layout layout
		object string
		want   record
	}{
		"a lease":                {lease, `{"spec":{"acquireTime":"2026-01-02T03:04:05.000000Z","holderIdentity":"istiod-1","leaseDurationSeconds":30,"leaseTransitions":2,"renewTime":"2026-01-02T03:05:06.000000Z"}}`, example},
		"a lease of nobody":      {lease, `{"spec":{}}`, record{}},
		"a lease without a spec": {lease, `{}`, record{}},
		"a ConfigMap of Istio's": {configMap, `{"metadata":{"annotations":{"control-plane.alpha.kubernetes.io/leader":"{\"holderIdentity\":\"istiod-1\",\"holderKey\":\"default\",\"leaseDurationSeconds\":30,\"acquireTime\":\"2026-01-02T03:04:05Z\",\"renewTime\":\"2026-01-02T03:05:06Z\",\"leaderTransitions\":2}"}}}`, example},
		"a ConfigMap of nobody":  {configMap, `{"metadata":{}}`, record{}},
		"a ConfigMap let go":     {configMap, `{"metadata":{"annotations":{"control-plane.alpha.kubernetes.io/leader":"{\"holderIdentity\":\"\",\"leaseDurationSeconds\":1,\"acquireTime\":null,\"renewTime\":null,\"leaderTransitions\":2}"}}}`, record{Seconds: 1, Transitions: 2}},
		"a lease without times":  {lease, `{"spec":{"holderIdentity":"a","leaseDurationSeconds":15}}`, record{Holder: "a", Seconds: 15}},
	} {
		t.Run(name, func(t *testing.T) {
			var object map[string]any
			if err := json.Unmarshal([]byte(test.object), &object); err != nil {
				t.Fatal(err)
			}
			got, err := test.layout.get(object)
			if err != nil {
				t.Fatal(err)
			}
			if !got.equal(test.want) {
				t.Errorf("read %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestWrittenRecordsAreReadAsTheSame(t *testing.T) {
	for _, l := range []layout{lease, configMap} {
		object := map[string]any{"metadata": map[string]any{"annotations": map[string]any{"owner": "team"}}}
		if err := l.set(object, example); err != nil {
			t.Fatal(err)
		}
		got, err := l.get(object)
		if err != nil || !got.equal(example) {
			t.Errorf("%s: read %+v, error %v", l.kind, got, err)
		}
		if diff := cmp.Diff("team", object["metadata"].(map[string]any)["annotations"].(map[string]any)["owner"]); diff != "" {
			t.Error(l.kind, diff)
		}
	}
}

func TestBrokenRecordSaysWhatToDo(t *testing.T) {
	_, err := configMap.get(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotation: "{"}}})
	if err == nil || err.Error() != "annotation control-plane.alpha.kubernetes.io/leader: unexpected end of JSON input: delete the ConfigMap" {
		t.Error(err)
	}
}
