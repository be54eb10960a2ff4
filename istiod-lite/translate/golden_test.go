package translate_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	"github.com/tulle-mesh/tulle/istiod-lite/watch"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// read runs a file's text through the watch, as the daemon does. Its second result says why it can't be used.
func read(t testing.TB, text []byte) (all []model.Change, refusal error) {
	t.Helper()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "objects.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := watch.Files{
		Source: source, Status: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Apply:  func(changes []model.Change) { all = changes; cancel() },
		Report: func(err error) { refusal = err; cancel() },
	}.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return all, refusal
}

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
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no cases", err)
	}
	mesh := translate.Mesh{ClusterID: "Kubernetes", DryRun: true}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			changes, refusal := read(t, text)
			if refusal != nil {
				t.Fatal(refusal)
			}
			matches(t, describe(t, changes, cluster, mesh), name+".out.yaml")
		})
	}
}

// TestBypassGolden translates what names waypoints that can't be used, for a mesh that chose to go round them.
func TestBypassGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/waypoints-unusable.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changes, refusal := read(t, text)
	if refusal != nil {
		t.Fatal(refusal)
	}
	matches(t, describe(t, changes, cluster, translate.Mesh{ClusterID: "Kubernetes", Bypass: true}), "waypoints-unusable.bypass.yaml")
}

// matches compares with a golden file, or rewrites it.
func matches(t *testing.T, got, golden string) {
	t.Helper()
	golden = filepath.Join("testdata", golden)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got), rewrite with -update if that is meant:\n%s", golden, diff)
	}
}

// FuzzObjects: whatever a file holds, it is refused with its name, or translated into resources that are alike each time.
// Its goroutines make coverage vary, so fuzz with -fuzzminimizetime 1x.
func FuzzObjects(f *testing.F) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, input := range inputs {
		text, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			f.Add([]byte(document))
		}
	}
	settings := model.Settings{SystemNamespace: "istio-system", Domain: "cluster.local", TrustDomain: "example.org"}
	mesh := translate.Mesh{ClusterID: "c1"}
	f.Fuzz(func(t *testing.T, text []byte) {
		changes, refusal := read(t, text)
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
