package deploy

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/golden"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

var settings = Settings{
	Image: "registry.example/waypoint:1.0", Domain: "cluster.local", ClusterID: "Kubernetes", Namespace: "istio-system",
}

var meshSettings = model.Settings{SystemNamespace: "istio-system", Domain: "cluster.local", TrustDomain: "cluster.local", Revisions: []string{"default"}}

// read takes a file's text through the watch, as the daemon does; ConfigMaps that the watch has no use for are overlays.
func read(t *testing.T, text []byte) (*model.Model, *parameters) {
	t.Helper()
	m := model.New(meshSettings)
	m.Apply(golden.MustRead(t, text))
	p := &parameters{namespace: "istio-system", listed: true, named: make(map[model.Name]*named), defaults: make(map[string]defaults)}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct {
				Namespace, Name string
				Labels          map[string]string
			}
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		if class := o.Metadata.Labels[defaultsLabel]; class != "" {
			p.defaults[o.Metadata.Name] = defaults{class, o.Data}
		} else if o.Kind == "ConfigMap" {
			p.named[model.Name{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}] = &named{listed: true, there: true, data: o.Data}
		}
	}
	for object := range m.All(model.KindGateway) {
		if ref := reference(object.(*model.Gateway)); ref.Name != "" && p.named[ref] == nil {
			p.named[ref] = &named{listed: true}
		}
	}
	return m, p
}

// none counts no routes.
func none(*model.Model, *model.Gateway) map[string]int { return map[string]int{"mesh": 2} }

// describe writes what becomes of a Gateway: its objects, and its status as comments.
func describe(t *testing.T, m *model.Model, p *parameters, name model.Name) string {
	t.Helper()
	w := Look(m, name, none)
	if w == nil {
		return fmt.Sprintf("# Gateway %s isn't deployed by this control plane.\n", name)
	}
	var text strings.Builder
	var failure error
	if !w.Manual() {
		overlays, known, err := p.of(w.Gateway)
		if failure = err; err == nil && !known {
			t.Fatal("not everything is known")
		}
		if failure == nil {
			objects, err := settings.render(w, overlays)
			failure = err
			for _, o := range objects {
				out, err := yaml.Marshal(o.Object)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&text, "%s---\n", out)
			}
		}
	}
	status := w.status(failure)
	fmt.Fprintf(&text, "# Gateway %s\n", name)
	for _, a := range status.Addresses {
		fmt.Fprintf(&text, "#   %s %s\n", a.Type(), a)
	}
	conditions := func(indent string, list []model.Condition) {
		for _, c := range list {
			fmt.Fprintf(&text, "#%s%s=%t %s: %s\n", indent, c.Type, c.Status, c.Reason, c.Message)
		}
	}
	conditions("   ", status.Conditions)
	for _, l := range status.Listeners {
		var kinds []string
		for _, kind := range l.Kinds {
			kinds = append(kinds, kind.Kind)
		}
		fmt.Fprintf(&text, "#   listener %s: %d routes of %s\n", l.Name, l.AttachedRoutes, strings.Join(kinds, ", "))
		conditions("     ", l.Conditions)
	}
	return text.String()
}

// TestGolden deploys the Gateways of testdata/<case>.in.yaml, in their order, and compares with <case>.out.yaml.
func TestGolden(t *testing.T) {
	golden.Test(t, func(t *testing.T, input []byte) string {
		m, p := read(t, input)
		got := ""
		for document := range strings.SplitSeq(string(input), "\n---\n") {
			var o struct {
				Kind     string
				Metadata struct{ Namespace, Name string }
			}
			if err := yaml.Unmarshal([]byte(document), &o); err != nil {
				t.Fatal(err)
			}
			if o.Kind == "Gateway" {
				got += describe(t, m, p, model.Name{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name})
			}
		}
		return got
	})
}
