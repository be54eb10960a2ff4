package model

import (
	"maps"
	"testing"
)

func TestLabelsAreKeptOnceAndWholly(t *testing.T) {
	all := map[string]string{"b": "2", "a": "1", "empty": ""}
	labels := LabelsOf(all)
	if labels != LabelsOf(maps.Clone(all)) || !labels.Equal(LabelsOf(all)) {
		t.Error("equal labels differ")
	}
	if got := maps.Collect(labels.All()); !maps.Equal(got, all) {
		t.Errorf("have %v", got)
	}
	if labels.String() != "a=1,b=2,empty=" {
		t.Errorf("written as %s", labels)
	}
	if value, ok := labels.Lookup("empty"); !ok || value != "" {
		t.Error("an empty value is lost")
	}
	if _, ok := labels.Lookup("missing"); ok || labels.Get("missing") != "" || labels.Get("a") != "1" {
		t.Error("another value than what is there")
	}
	if !LabelsOf(nil).Empty() || !(Labels{}).Empty() || labels.Empty() || (Labels{}).Get("a") != "" {
		t.Error("emptiness")
	}
	if !LabelsOf(map[string]string{"a": "x\x00y"}).Empty() {
		t.Error("a value that can't be is taken")
	}
}

func TestSelectorsChooseAsKubernetesDoes(t *testing.T) {
	labels := LabelsOf(map[string]string{"env": "prod", "team": "shop"})
	for name, c := range map[string]struct {
		selector Selector
		want     bool
	}{
		"nothing asked":           {Selector{}, true},
		"a label":                 {Selector{Labels: LabelsOf(map[string]string{"env": "prod"})}, true},
		"a label of another":      {Selector{Labels: LabelsOf(map[string]string{"env": "test"})}, false},
		"in":                      {Selector{Also: []Requirement{{"env", In, []string{"test", "prod"}}}}, true},
		"not in":                  {Selector{Also: []Requirement{{"env", NotIn, []string{"prod"}}}}, false},
		"not in, without it":      {Selector{Also: []Requirement{{"zone", NotIn, []string{"a"}}}}, true},
		"exists":                  {Selector{Also: []Requirement{{"team", Exists, nil}}}, true},
		"does not exist":          {Selector{Also: []Requirement{{"team", DoesNotExist, nil}}}, false},
		"one of two fails":        {Selector{Labels: LabelsOf(map[string]string{"env": "prod"}), Also: []Requirement{{"zone", Exists, nil}}}, false},
		"something nobody knows":  {Selector{Also: []Requirement{{"env", "Like", []string{"prod"}}}}, false},
		"in, of nothing at all":   {Selector{Also: []Requirement{{"env", In, nil}}}, false},
		"the same key, two times": {Selector{Also: []Requirement{{"env", Exists, nil}, {"env", NotIn, []string{"test"}}}}, true},
	} {
		if got := c.selector.Matches(labels); got != c.want {
			t.Errorf("%s: have %v", name, got)
		}
	}
}

func TestAnEmptySelectorOfLabelsSelectsAllOfItsNamespace(t *testing.T) {
	m := New(Settings{})
	for _, pod := range []*Pod{{Namespace: "demo", Name: "a"}, {Namespace: "demo", Name: "b", Labels: LabelsOf(map[string]string{"app": "b"})}, {Namespace: "other", Name: "c"}} {
		m.Apply([]Change{{Key: pod.Key(), Object: pod}})
	}
	count := func(selector Labels) (n int) {
		for range m.pods.selected("demo", selector) {
			n++
		}
		return n
	}
	if count(Labels{}) != 2 || count(LabelsOf(map[string]string{"app": "b"})) != 1 || count(LabelsOf(map[string]string{"app": "c"})) != 0 {
		t.Error("other pods than asked for")
	}
}
