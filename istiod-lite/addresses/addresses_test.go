package addresses

import (
	"net/netip"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func TestHostsThatWantAddresses(t *testing.T) {
	for name, test := range map[string]struct {
		entry model.ServiceEntry
		want  []string
	}{
		"hosts":                        {model.ServiceEntry{Hosts: []string{"a.example", "b.example"}, Resolution: model.ResolveDNS}, []string{"a.example", "b.example"}},
		"static endpoints":             {model.ServiceEntry{Hosts: []string{"a.example"}, Resolution: model.ResolveStatic}, []string{"a.example"}},
		"names below a name":           {model.ServiceEntry{Hosts: []string{"*.example", "a.example"}, Resolution: model.ResolveDNS}, []string{"a.example"}},
		"DNS is asked for each":        {model.ServiceEntry{Hosts: []string{"*.example"}, Resolution: model.ResolveDynamic}, []string{"*.example"}},
		"addresses of its own":         {model.ServiceEntry{Hosts: []string{"a.example"}, VIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, Resolution: model.ResolveDNS}, nil},
		"endpoints where it's dialled": {model.ServiceEntry{Hosts: []string{"a.example"}, Resolution: model.ResolveNone}, nil},
		"its label asks for none":      {model.ServiceEntry{Hosts: []string{"a.example"}, Resolution: model.ResolveDNS, Unallocated: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := entryOf(&test.entry).Hosts; !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestPatchIsConditionalAndWritesNothingElse(t *testing.T) {
	got := string(patch("42", []Assignment{{"a.example", ip("240.240.0.1")}, {"a.example", ip("2001:2::1")}}))
	want := `{"metadata":{"resourceVersion":"42"},"status":{"addresses":[{"host":"a.example","value":"240.240.0.1"},{"host":"a.example","value":"2001:2::1"}]}}`
	if got != want {
		t.Error(got)
	}
	if got := string(patch("42", nil)); got != `{"metadata":{"resourceVersion":"42"},"status":{"addresses":null}}` {
		t.Error(got)
	}
}

func TestHostileStatusIsNotWhatIsWanted(t *testing.T) {
	for name, status := range map[string]any{
		"no status": nil, "text": "x", "addresses are text": map[string]any{"addresses": "x"}, "an address is a number": map[string]any{"addresses": []any{int64(1)}},
		"no value": map[string]any{"addresses": []any{map[string]any{"host": "a.example"}}},
		"no IP":    map[string]any{"addresses": []any{map[string]any{"host": "a.example", "value": "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			held := heldBy(&unstructured.Unstructured{Object: map[string]any{"status": status}})
			if same(held, []Assignment{{"a.example", ip("240.240.0.1")}}) {
				t.Errorf("%v counts as what is wanted", held)
			}
		})
	}
}

func TestOrderOfAddressesDoesNotMatter(t *testing.T) {
	a, b := Assignment{"a.example", ip("240.240.0.1")}, Assignment{"a.example", ip("2001:2::1")}
	if !same([]Assignment{a, b}, []Assignment{b, a}) || same([]Assignment{a}, []Assignment{a, b}) || same([]Assignment{a, a}, []Assignment{a, b}) {
		t.Error("compares wrongly")
	}
}

func TestWhatAnEntryLacksIsToldOnceAndTakenBack(t *testing.T) {
	var told []string
	w := New(nil, func(name model.Name, uid, message string) { told = append(told, name.String()+" "+uid+" "+message) }, nil)
	name := entry("late", 1).Name
	for _, lack := range []error{nil, errFull, errFull, nil, nil} {
		w.tell(name, "1", lack)
	}
	w.tell(name, "1", errFull)
	w.Drop(name)
	w.Drop(name)
	if want := []string{"apps/late 1 " + errFull.Error(), "apps/late 1 ", "apps/late 1 " + errFull.Error(), "apps/late  "}; !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
}
