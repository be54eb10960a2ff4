package routes_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
	"github.com/tulle-mesh/tulle/istiod-lite/watch"
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

var settings = model.Settings{SystemNamespace: "istio-system", Domain: "cluster.local", TrustDomain: "cluster.local"}

// page is what becomes of objects, for a reader.
type page struct {
	Resources map[string]any      `json:"resources,omitempty"`
	Statuses  map[string][]string `json:"statuses,omitempty"`
}

func (p *page) add(t testing.TB, key model.Key, result routes.Result) {
	t.Helper()
	for _, resource := range result.Resources {
		if p.Resources[resource.Name] != nil {
			t.Errorf("two resources are named %s", resource.Name)
		}
		text, err := protojson.Marshal(resource.Message)
		if err != nil {
			t.Fatal(err)
		}
		var fields any
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		p.Resources[resource.Name] = fields
	}
	say := func(about string, conditions []model.Condition) {
		for _, c := range conditions {
			p.Statuses[about] = append(p.Statuses[about], fmt.Sprintf("%s=%t %s: %s", c.Type, c.Status, c.Reason, c.Message))
		}
	}
	say(string(key.Kind)+" "+key.Name.String(), result.Conditions)
	for _, parent := range result.Parents {
		ref := parent.Ref
		say(fmt.Sprintf("%s %s at %s %s %s:%d", key.Kind, key.Name, ref.Kind, ref.Name, ref.Section, ref.Port), parent.Conditions)
	}
}

// describe translates everything and writes it as a reader would look for it.
func describe(t testing.TB, changes []model.Change) string {
	t.Helper()
	m := model.New(settings)
	out := page{Resources: map[string]any{}, Statuses: map[string][]string{}}
	for _, key := range m.Apply(changes) {
		out.add(t, key, routes.Object(m, key))
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestGolden translates testdata/<case>.in.yaml and compares with <case>.out.yaml.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no cases", err)
	}
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
			got := describe(t, changes)
			golden := filepath.Join("testdata", name+".out.yaml")
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
		})
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
		f.Add(text)
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			f.Add([]byte(document))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		changes, refusal := read(t, text)
		if refusal != nil {
			if !strings.Contains(refusal.Error(), "objects.yaml") {
				t.Errorf("no place: %v", refusal)
			}
			return
		}
		if one, two := describe(t, changes), describe(t, changes); one != two {
			t.Errorf("differs:\n%s\n%s", one, two)
		}
	})
}
