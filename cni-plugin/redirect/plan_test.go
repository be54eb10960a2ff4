package redirect

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden listings")

// before are the sysctls of a namespace; an empty value means that the kernel doesn't have it.
func before(reuse, migrate string) []Sysctl {
	all := []Sysctl{{"net.ipv4.tcp_tw_reuse", reuse}, {"net.ipv4.tcp_migrate_req", migrate}}
	return slices.DeleteFunc(all, func(s Sysctl) bool { return s.Value == "" })
}

func TestPlansReadAsTheyAreDocumented(t *testing.T) {
	cases := map[string]Wish{
		"capture":      {State: Capture, IPv6: true, Remembered: before("2", "0")},
		"capture_ipv4": {State: Capture, Remembered: before("0", "")}, // a kernel older than 5.14
		"capture_dns":  {State: CaptureDNS, IPv6: true, Remembered: before("2", "0")},
		"draining":     {State: Draining, IPv6: true, Remembered: before("2", "0")},
		"removed":      {State: Removed, IPv6: true, Remembered: before("2", "0")},
	}
	for name, wish := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".golden")
			got := Plan(wish).String()
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("plan differs from %s (-want +got; -update rewrites it):\n%s", file, diff)
			}
		})
	}
}

func TestCommentsOfStrangersAreReadSafely(t *testing.T) {
	cases := map[string]struct {
		data []byte
		want string
	}{
		"none":                  {nil, ""},
		"ours":                  {userData("before"), "before"},
		"behind another entry":  {append([]byte{7, 2, 'x', 'y'}, userData("before")...), "before"},
		"length beyond the end": {[]byte{commentType, 200, 'x'}, ""},
		"half a header":         {[]byte{commentType}, ""},
		"empty entries":         {[]byte{7, 0, 7, 0, commentType, 0}, ""},
	}
	for name, c := range cases {
		if got := comment(c.data); got != c.want {
			t.Errorf("%s: comment is %q, want %q", name, got, c.want)
		}
	}
}

func TestOnlyPlausibleRememberedValuesAreBelieved(t *testing.T) {
	table := func(comment string) []Table {
		return []Table{{Name: mangleTable, Chains: []Chain{{Name: "output", Rules: []Rule{{Comment: comment}}}}}}
	}
	for comment, want := range map[string][]Sysctl{
		remember(before("0", "1")): before("0", "1"), remember(before("1", "0")): before("1", "0"), remember(before("2", "")): before("2", ""),
		remember(before("3", "0")): before("", "0"), remember(before("22", "2")): nil, remember(nil): nil, "something else": nil, "": nil,
		"net.ipv4.tcp_tw_reuse=1": nil, "before: net.ipv4.tcp_tw_reuse=": nil, "before: xnet.ipv4.tcp_tw_reuse=1": nil,
	} {
		got := remembered(table(comment))
		if len(got) != len(want) || slices.ContainsFunc(want, func(s Sysctl) bool { return got[s.Name] != s.Value }) {
			t.Errorf("remembered(%q) = %v, want %v", comment, got, want)
		}
	}
}

func FuzzComment(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(userData(remember(before("2", "0"))))
	f.Add([]byte{commentType, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if got := comment(data); len(got) > len(data) {
			t.Errorf("comment of %d bytes from %d", len(got), len(data))
		}
	})
}

func FuzzSocketMessage(f *testing.F) {
	f.Add(make([]byte, diagMessageLen))
	f.Add(append(make([]byte, diagMessageLen), 8, 0, diagMark, 0, 0x39, 5, 0, 0))
	f.Add([]byte{10, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseSocket(data); err == nil && !s.local.IsValid() {
			t.Error("a socket without address")
		}
	})
}
