package exchange_test

import (
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

func TestSeveralLinesAreOneValue(t *testing.T) {
	fields := []exchange.Field{{Name: "a", Value: "1"}, {Name: "b", Value: "x"}, {Name: "a", Value: "2"}, {Name: "a", Value: "3"}, {Name: "e", Value: ""}}
	for name, want := range map[string]string{"a": "1,2,3", "b": "x", "e": ""} {
		if got, ok := exchange.Joined(fields, name); !ok || got != want {
			t.Errorf("Joined(%q) = %q, %v; want %q", name, got, ok, want)
		}
	}
	if _, ok := exchange.Joined(fields, "z"); ok {
		t.Error("Joined(z) is there")
	}
}

func TestSetReplacesAllLines(t *testing.T) {
	fields := []exchange.Field{{Name: "a", Value: "1"}, {Name: "b", Value: "x"}, {Name: "a", Value: "2"}}
	fields = exchange.Set(fields, "a", "new")
	if want := []exchange.Field{{Name: "b", Value: "x"}, {Name: "a", Value: "new"}}; !slices.Equal(fields, want) {
		t.Errorf("Set: %v, want %v", fields, want)
	}
	if fields = exchange.Remove(fields, "b"); !slices.Equal(fields, []exchange.Field{{Name: "a", Value: "new"}}) {
		t.Errorf("Remove: %v", fields)
	}
}
