package index_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/index"
)

// look tells which entries were asked whether they fit a request for a path, with a header x.
func look(x *index.Index, path, header string) (asked []int32) {
	s := x.Begin(func(i int32) bool {
		asked = append(asked, i)
		return false
	})
	s.Paths(path)
	s.Headers([]exchange.Field{{Name: "x", Value: header}})
	slices.Sort(asked)
	return asked
}

func TestEntriesAreFiledUnderTheirRarestKey(t *testing.T) {
	path := func(value string) []index.Key { return []index.Key{{Kind: index.Path, Value: value}} }
	prefix := func(value string) []index.Key { return []index.Key{{Kind: index.Prefix, Value: value}} }
	x := func(value string) []index.Key { return []index.Key{{Kind: index.Header, Name: "x", Value: value}} }
	entries := []index.Entry{
		0: {path("/a"), x("0")},
		1: {path("/a"), x("1")},
		2: {path("/a")},
		3: nil,
		4: {prefix("/b"), x("4")},
		5: {prefix("/b/c")},
		6: {append(path("/p"), path("/q")...)},
		7: {append(path("/p"), path("/p")...)},
	}
	all := index.New(entries)
	for _, c := range []struct{ path, header, want string }{
		{"/a", "", "[2 3]"}, {"/a", "1", "[1 2 3]"}, {"/", "0", "[0 3]"}, {"/b/c/d", "", "[3 4 5]"}, {"/b", "", "[3 4]"}, {"/b/c", "9", "[3 4 5]"}, {"/bc", "", "[3]"},
		{"/p", "", "[3 6 7]"}, {"/q", "", "[3 6]"},
	} {
		if got := fmt.Sprint(look(all, c.path, c.header)); got != c.want {
			t.Errorf("%s with x: %s looks at %s, want %s", c.path, c.header, got, c.want)
		}
	}
}

func TestTheFirstThatFitsIsFoundInWhateverOrderKeysAre(t *testing.T) {
	entries := []index.Entry{
		{{{Kind: index.Header, Name: "x", Value: "1"}}}, {{{Kind: index.Path, Value: "/a"}}}, nil,
	}
	all := index.New(entries)
	for wanted := range int32(3) {
		s := all.Begin(func(i int32) bool { return i >= wanted })
		s.Paths("/a")
		s.Headers([]exchange.Field{{Name: "x", Value: "1"}})
		if got, ok := s.First(); !ok || got != wanted {
			t.Errorf("first from %d is %d, %v", wanted, got, ok)
		}
	}
	s := all.Begin(func(int32) bool { return false })
	if got, ok := s.First(); ok {
		t.Errorf("found %d, where none fits", got)
	}
}

func TestPrefixKeysAreWholeElements(t *testing.T) {
	for text, want := range map[string]string{"/a/": "/a", "/a/b": "/a", "/a/b/c": "/a/b", "/a": "", "/": "", "": ""} {
		if k, ok := index.PrefixKey(text); ok != (want != "") || k.Value != want {
			t.Errorf("PrefixKey(%q) = %v, %v", text, k, ok)
		}
	}
}
