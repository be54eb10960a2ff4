package routes_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
)

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
	golden.Test(t, func(t *testing.T, input []byte) string { return describe(t, golden.MustRead(t, input)) })
}

// FuzzObjects: whatever a file holds, it is refused with its name, or translated into resources that are alike each time.
// Its goroutines make coverage vary, so fuzz with -fuzzminimizetime 1x.
func FuzzObjects(f *testing.F) {
	for _, text := range golden.Inputs(f) {
		f.Add(text)
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			f.Add([]byte(document))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		changes, refusal := golden.Read(t, text)
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
