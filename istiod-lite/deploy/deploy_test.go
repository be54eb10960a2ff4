package deploy

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/reflector"
)

// plain is a waypoint without any wish.
func plain() *Waypoint {
	return &Waypoint{
		Gateway: &model.Gateway{
			Namespace: "shop", Name: "waypoint", UID: "u1", Class: model.WaypointClass, ServiceAccount: "waypoint",
			Listeners: []model.Listener{{Name: "mesh", Port: model.HBONEPort, Protocol: "HBONE"}},
		},
		TrustDomain: "cluster.local",
	}
}

func TestTheTemplateHasEachKindInOrder(t *testing.T) {
	texts := strings.Split(template, "\n---\n")
	if len(texts) != len(kinds) {
		t.Fatalf("%d documents for %d kinds", len(texts), len(kinds))
	}
	for i, text := range texts {
		k := &kinds[i]
		o := settings.object(plain(), text)
		if gv := k.resource.GroupVersion().String(); o["kind"] != k.Kind || o["apiVersion"] != gv {
			t.Errorf("document %d is a %v of %v, want a %s of %s", i, o["kind"], o["apiVersion"], k.Kind, gv)
		}
		if err := strict(k, o); err != nil {
			t.Errorf("%s: %v", k.Kind, err)
		}
		if text := fmt.Sprint(o); strings.Contains(text, "${") {
			t.Errorf("words that nothing was filled in for: %s", text)
		}
	}
}

func TestSettingsReachThePods(t *testing.T) {
	s := settings
	s.PullPolicy, s.PullSecrets, s.Revision, s.CRL = "Always", []string{"a", "b"}, "blue", true
	objects, err := s.render(plain(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(objects[1].Object)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"imagePullPolicy: Always", "imagePullSecrets:\n      - name: a\n      - name: b", "value: istiod-blue.istio-system.svc:15012", "istio.io/rev: blue",
		"- name: CRL_PATH\n          value: /var/run/secrets/istio-crl/ca-crl.pem", "- mountPath: /var/run/secrets/istio-crl\n          name: istio-ca-crl\n          readOnly: true",
		"- configMap:\n          name: istio-ca-crl\n          optional: true\n        name: istio-ca-crl"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// Values come from users; whatever they are, they stay the text of one field.
func TestValuesAreNothingButText(t *testing.T) {
	w := plain()
	w.TrustDomain = "a\nhostNetwork: true # ${image} \"'"
	objects, err := settings.render(w, nil)
	if err != nil {
		t.Fatal(err)
	}
	pod := at(objects[1].Object, []string{"spec", "template", "spec"}).(map[string]any)
	if pod["hostNetwork"] != nil || !strings.Contains(fmt.Sprint(pod), w.TrustDomain) {
		t.Errorf("%v", pod)
	}
}

func TestAnObjectIsWrittenOnlyIfItIsNotAsAfterTheLastTime(t *testing.T) {
	wanted := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"namespace": "shop", "name": "waypoint"}, "spec": map[string]any{"type": "ClusterIP"},
	}}
	written := wanted.DeepCopy()
	written.SetUID("s1")
	written.SetResourceVersion("1")
	written.Object["spec"].(map[string]any)["clusterIP"] = "10.0.0.1"
	c := newCluster()
	if c.same(wanted) {
		t.Error("it wasn't written yet")
	}
	c.note(wanted, written)
	if !c.same(wanted) {
		t.Error("it is as it was written")
	}
	change := func(change func(*unstructured.Unstructured)) bool {
		seen := written.DeepCopy()
		change(seen)
		c.seen[refOf(seen)] = look(seen)
		return !c.same(wanted)
	}
	for name, test := range map[string]struct {
		change func(*unstructured.Unstructured)
		write  bool
	}{
		"nothing":       {func(*unstructured.Unstructured) {}, false},
		"its status":    {func(o *unstructured.Unstructured) { o.Object["status"] = map[string]any{"a": "b"} }, false},
		"its version":   {func(o *unstructured.Unstructured) { o.SetResourceVersion("2"); o.SetGeneration(3) }, false},
		"its spec":      {func(o *unstructured.Unstructured) { o.Object["spec"].(map[string]any)["type"] = "NodePort" }, true},
		"its labels":    {func(o *unstructured.Unstructured) { o.SetLabels(map[string]string{"a": "b"}) }, true},
		"its owners":    {func(o *unstructured.Unstructured) { o.SetOwnerReferences(nil); o.SetFinalizers([]string{"a/b"}) }, true},
		"made by other": {func(o *unstructured.Unstructured) { o.SetUID("s2") }, true},
	} {
		if got := change(test.change); got != test.write {
			t.Errorf("%s: written: %v", name, got)
		}
	}
	delete(c.seen, refOf(wanted))
	if c.same(wanted) {
		t.Error("it is gone")
	}
	c.note(wanted, written)
	wanted.SetLabels(map[string]string{"more": "wishes"})
	if c.same(wanted) {
		t.Error("something else is wished for")
	}
}

func TestParametersAreKnownWhenAllOfThemWereSeen(t *testing.T) {
	g := plain().Gateway
	g.Objects.Parameters = &model.ObjectRef{Kind: "ConfigMap", Name: model.Name{Namespace: "shop", Name: "changes"}}
	p := &parameters{namespace: "istio-system", named: map[model.Name]*named{}, defaults: map[string]defaults{}}
	known := func() bool {
		_, known, err := p.of(g)
		return known || err != nil
	}
	if known() {
		t.Error("before the defaults were listed")
	}
	p.listed = true
	if known() {
		t.Error("before the ConfigMap is followed")
	}
	state := new(named)
	p.named[reference(g)] = state
	if known() {
		t.Error("before it was looked for")
	}
	state.listed = true
	if _, _, err := p.of(g); err == nil {
		t.Error("it isn't there, and that is no mistake")
	}
	state.there, state.data = true, map[string]string{"service": ""}
	p.defaults["b"], p.defaults["a"] = defaults{g.Class, nil}, defaults{g.Class, nil}
	p.defaults["c"] = defaults{"other", nil}
	overlays, _, err := p.of(g)
	var names []string
	for _, o := range overlays {
		names = append(names, o.Name)
	}
	if want := []string{"istio-system/a", "istio-system/b", "shop/changes"}; err != nil || !reflect.DeepEqual(names, want) {
		t.Errorf("%v %v", names, err)
	}
}

// What nobody leads keeps what there is to do, and does nothing.
func TestAGatewayThatGoesTakesItsParametersAlong(t *testing.T) {
	w := New(Config{Log: slog.New(slog.DiscardHandler)})
	one := plain()
	one.Gateway.Objects.Parameters = &model.ObjectRef{Kind: "ConfigMap", Name: model.Name{Namespace: "shop", Name: "changes"}}
	w.Put(one.Gateway.Key().Name, one)
	w.Put(model.Name{Namespace: "shop", Name: "none"}, nil)
	if len(w.parameters.wanted) != 1 {
		t.Errorf("followed: %v", w.parameters.wanted)
	}
	w.Put(one.Gateway.Key().Name, nil)
	if len(w.parameters.wanted)+len(w.waypoints) != 0 {
		t.Errorf("left: %v %v", w.parameters.wanted, w.waypoints)
	}
}

func TestOnlyWhatTheGatewayControlsIsSweptAway(t *testing.T) {
	c, g := newCluster(), plain().Gateway
	of := func(kind, name string) ref { return ref{kind, reflector.Name{Namespace: "shop", Name: name}} }
	kept := of("Service", "waypoint")
	c.seen[kept] = sight{gateway: g.Key().Name, owner: "u1"}
	c.seen[of("Service", "foreign")] = sight{gateway: g.Key().Name, owner: "u9"}
	c.seen[of("Service", "other")] = sight{gateway: model.Name{Namespace: "shop", Name: "other"}, owner: "u1"}
	if left := c.left(g, map[ref]bool{kept: true}); len(left) > 0 {
		t.Errorf("%v", left)
	}
	old := of("Service", "old")
	c.seen[old] = sight{gateway: g.Key().Name, owner: "u1"}
	if left := c.left(g, map[ref]bool{kept: true}); len(left) != 1 || left[old].owner != "u1" {
		t.Errorf("%v", left)
	}
}

// FuzzOverlay: whatever a ConfigMap says, it is refused with a word, or what makes the object the Gateway's own is as it was and
// every field is one that there is.
func FuzzOverlay(f *testing.F) {
	for _, k := range kinds {
		for _, text := range []string{
			"", "spec: {}", "metadata: {labels: {a: b}, annotations: {c: null}}", "$patch: replace", "spec: {$patch: delete}", "spec: {replicas: 3}",
			"spec: {template: {spec: {containers: [{name: istio-proxy, env: [{name: A, value: b}], $setElementOrder/env: [{name: A}]}]}}}",
			"spec: {template: {spec: {volumes: [{name: istio-token, $patch: delete}]}}}", "spec: {ports: [{port: 1}], $retainKeys: [ports]}",
			"spec: {$deleteFromPrimitiveList/ipFamilies: [IPv4]}", "spec: {selector: null}", "[1]", "a: &a [*a]", "spec: {minAvailable: 50%}",
		} {
			f.Add(k.key, text)
		}
	}
	f.Fuzz(func(t *testing.T, key, text string) {
		objects, err := settings.render(plain(), []Overlay{{Name: "shop/changes", Data: map[string]string{key: text}}})
		if err != nil {
			if r, ok := err.(*refusal); !ok || r.reason != invalidParameters || !strings.Contains(r.message, "shop/changes") {
				t.Errorf("not told which: %v", err)
			}
			return
		}
		for _, o := range objects {
			k := kindOf(o.GetKind())
			if o.GetName() != "waypoint" || o.GetNamespace() != "shop" || len(o.GetOwnerReferences()) != 1 || o.GetLabels()[model.GatewayNameLabel] != "waypoint" {
				t.Errorf("another's: %v", o)
			}
			if err := strict(k, o.Object); err != nil {
				t.Error(err)
			}
		}
	})
}
