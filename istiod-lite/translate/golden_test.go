package translate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// describe translates everything and writes it as a reader would look for it.
func describe(t testing.TB, changes []model.Change, settings model.Settings, mesh translate.Mesh) string {
	t.Helper()
	m := model.New(settings)
	out := map[string]map[string]any{}
	var notes []string
	for _, key := range m.Apply(changes) {
		result := mesh.Object(m, key)
		for _, note := range result.Notes {
			notes = append(notes, fmt.Sprintf("%s %s: %s", note.Object.Kind, note.Object.Name, note.Text))
		}
		if len(result.Conditions) > 0 {
			if out["conditions"] == nil {
				out["conditions"] = map[string]any{}
			}
			out["conditions"][string(key.Kind)+" "+key.Name.String()] = conditionTexts(result.Conditions)
		}
		for _, resource := range result.Resources {
			kind, message := "policies", resource.Message
			if address, ok := message.(*workload.Address); ok {
				kind, message = "services", address.GetService()
				if w := address.GetWorkload(); w != nil {
					kind, message = "workloads", w
				}
			}
			fields, err := translate.Render(message)
			if err != nil {
				t.Fatal(err)
			}
			if out[kind] == nil {
				out[kind] = map[string]any{}
			}
			out[kind][resource.Name] = fields
		}
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(notes)
	for _, note := range notes {
		text = append(text, "# "+note+"\n"...)
	}
	return string(text)
}

// conditionTexts writes conditions as "Type=Status Reason: Message".
func conditionTexts(conditions []model.Condition) []string {
	var texts []string
	for _, c := range conditions {
		texts = append(texts, fmt.Sprintf("%s=%t %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return texts
}

// cluster is a mesh with nothing out of the ordinary.
var cluster = model.Settings{SystemNamespace: "istio-system", Domain: "cluster.local", TrustDomain: "cluster.local", Revisions: []string{"default"}}

// TestGolden translates testdata/<case>.in.yaml and compares with <case>.out.yaml, by resource name. Notes stand at its
// end as comments.
func TestGolden(t *testing.T) {
	mesh := translate.Mesh{ClusterID: "Kubernetes", DryRun: true}
	golden.Test(t, func(t *testing.T, input []byte) string { return describe(t, golden.MustRead(t, input), cluster, mesh) })
}

// TestBypassGolden translates what names waypoints that can't be used, for a mesh that chose to go round them.
func TestBypassGolden(t *testing.T) {
	mesh := translate.Mesh{ClusterID: "Kubernetes", Bypass: true}
	golden.Match(t, describe(t, golden.MustRead(t, golden.Inputs(t)["waypoints-unusable"]), cluster, mesh), "waypoints-unusable.bypass.yaml")
}

// FuzzObjects: whatever a file holds, it is refused with its name, or translated into resources that are alike each time.
// Its goroutines make coverage vary, so fuzz with -fuzzminimizetime 1x.
func FuzzObjects(f *testing.F) {
	for _, text := range golden.Inputs(f) {
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			f.Add([]byte(document))
		}
	}
	settings := model.Settings{SystemNamespace: "istio-system", Domain: "cluster.local", TrustDomain: "example.org"}
	mesh := translate.Mesh{ClusterID: "c1"}
	f.Fuzz(func(t *testing.T, text []byte) {
		changes, refusal := golden.Read(t, text)
		if refusal != nil {
			if !strings.Contains(refusal.Error(), "objects.yaml") {
				t.Errorf("no place: %v", refusal)
			}
			return
		}
		if one, two := describe(t, changes, settings, mesh), describe(t, changes, settings, mesh); one != two {
			t.Errorf("differs:\n%s\n%s", one, two)
		}
	})
}
