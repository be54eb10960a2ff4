package decode_test

import (
	"reflect"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// What takes the place of a policy that can't be read lets nobody in, but only where it could have refused somebody.
func TestWhatClosesForAPolicyThatCannotBeRead(t *testing.T) {
	for _, test := range []struct {
		name, metadata, spec string
		action               model.Action
		rules                int
		dryRun               bool
		revision             string
	}{
		{"of no action", "{}", "{novel: 1}", model.Allow, 0, false, ""},
		{"that denies", "{}", "{action: DENY, novel: 1}", model.Allow, 0, false, ""},
		{"of an action that is none", "{}", "{action: 7, novel: 1}", model.Allow, 0, false, ""},
		{"that only tells", "{}", "{action: AUDIT, novel: 1}", model.Audit, 0, false, ""},
		{"that asks a provider", "{}", "{action: CUSTOM, novel: 1}", model.Custom, 1, false, ""},
		{"that asks a provider, for nobody knows whom", "{}", "{action: CUSTOM, selector: {matchLabels: 7}}", model.Allow, 0, false, ""},
		{"that is only tried out", "{annotations: {istio.io/dry-run: 'true'}}", "{novel: 1}", model.Allow, 0, true, ""},
		{"of a revision", "{labels: {istio.io/rev: canary}}", "{novel: 1}", model.Allow, 0, false, "canary"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := []byte(object(security, "AuthorizationPolicy", "metadata: "+test.metadata+"\nspec: "+test.spec))
			closed, ok := closedFor(t, text).(*model.AuthorizationPolicy)
			if !ok {
				t.Fatal("nothing closes")
			}
			if closed.Action != test.action || len(closed.Rules) != test.rules || closed.DryRun != test.dryRun || closed.Revision != test.revision {
				t.Errorf("%s with %d rules, dry run %t, revision %q", closed.Action, len(closed.Rules), closed.DryRun, closed.Revision)
			}
		})
	}
	for _, kind := range []string{"PeerAuthentication", "RequestAuthentication"} {
		text := []byte(object(security, kind, "metadata: {labels: {istio.io/rev: canary}}\nspec: {novel: 1}"))
		switch closed := closedFor(t, text).(type) {
		case *model.PeerAuthentication:
			if closed.Revision != "canary" {
				t.Errorf("%s of revision %q", kind, closed.Revision)
			}
		case *model.RequestAuthentication:
			if closed.Revision != "canary" {
				t.Errorf("%s of revision %q", kind, closed.Revision)
			}
		default:
			t.Errorf("%s: nothing closes", kind)
		}
	}
}

// What stands for a route that can't be read has its parents, as long as they can be.
func TestWhatStandsForARouteThatCannotBeReadHasItsParents(t *testing.T) {
	const gateway = "gateway.networking.k8s.io/v1"
	parents := "parentRefs: [{group: '', kind: Service, name: web, namespace: shop, port: 80}, {name: waypoint, sectionName: mesh}]"
	for _, kind := range []string{"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"} {
		metadata := "metadata: {name: x, namespace: demo, generation: 7, labels: {istio.io/rev: canary}}\n"
		for _, rules := range []string{"[{backendRefs: [{name: web, port: 80, weight: -1}]}]", "all"} {
			text := []byte(object(gateway, kind, metadata+"spec: {"+parents+", rules: "+rules+"}"))
			want := &model.Route{
				Kind: model.Kind(kind), Namespace: "demo", Name: "x", Generation: 7, Revision: "canary",
				Parents: []model.ParentRef{
					{ObjectRef: model.ObjectRef{Kind: "Service", Name: model.Name{Namespace: "shop", Name: "web"}}, Port: 80, Written: true},
					{ObjectRef: model.ObjectRef{Group: model.RouteGroup, Kind: "Gateway", Name: model.Name{Namespace: "demo", Name: "waypoint"}}, Section: "mesh"},
				},
				Problem: &model.Problem{Condition: "Accepted", Reason: "UnsupportedValue", Message: "it can't be read"},
			}
			if got := closedFor(t, text); !reflect.DeepEqual(got, want) {
				t.Errorf("%s, rules %s: %+v", kind, rules, got)
			}
		}
		for _, spec := range []string{"{parentRefs: [{name: web, port: 70000}]}", "{parentRefs: all}", "all"} {
			if got := closedFor(t, []byte(object(gateway, kind, "spec: "+spec))); got != nil {
				t.Errorf("%s, spec %s: %+v, want nothing", kind, spec, got)
			}
		}
	}
}

func closedFor(t *testing.T, text []byte) model.Object {
	t.Helper()
	if _, err := read(text); err == nil {
		t.Fatal("it can be read")
	}
	var marks struct{ Kind string }
	if err := yaml.Unmarshal(text, &marks); err != nil {
		t.Fatal(err)
	}
	for _, kind := range decode.Kinds() {
		if kind.Kind == marks.Kind {
			return kind.Closed(func(into any) error { return yaml.Unmarshal(text, into) })
		}
	}
	return nil
}
