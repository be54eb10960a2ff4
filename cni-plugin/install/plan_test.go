package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var settings = Settings{RunDir: "/var/run/istio-cni", Excluded: []string{"kube-system"}, System: "istio-system"}

// folderAt reads every file of a folder.
func folderAt(t *testing.T, dir string) []File {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var folder []File
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		folder = append(folder, File{entry.Name(), data})
	}
	return folder
}

// after is a folder with a change, as text for people.
func after(folder []File, change Change) []File {
	files := map[string][]byte{}
	for _, f := range slices.Concat(folder, change.Write) {
		files[f.Name] = f.Data
	}
	for _, name := range change.Remove {
		delete(files, name)
	}
	var result []File
	for name, data := range files {
		result = append(result, File{name, data})
	}
	slices.SortFunc(result, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return result
}

func text(folder []File) string {
	var b strings.Builder
	for _, f := range folder {
		b.WriteString("-- " + f.Name + "\n" + strings.TrimSuffix(string(f.Data), "\n") + "\n")
	}
	return b.String()
}

// TestChaining compares with testdata/<case>/after.golden, for the configurations that the usual network plugins write.
func TestChaining(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/before")
	if err != nil || len(cases) < 9 {
		t.Fatal(cases, err)
	}
	for _, dir := range cases {
		name := filepath.Base(filepath.Dir(dir))
		t.Run(name, func(t *testing.T) {
			before := folderAt(t, dir)
			change, err := Plan(before, settings)
			if err != nil {
				t.Fatal(err)
			}
			now := after(before, change)
			golden := filepath.Join(filepath.Dir(dir), "after.golden")
			if *update {
				if err := os.WriteFile(golden, []byte(text(now)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), text(now)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if again, err := Plan(now, settings); err != nil || !again.Empty() {
				t.Errorf("a second time: %+v, %v", again, err)
			}
			if left := text(after(now, Undo(now))); strings.Contains(left, pluginType) || strings.Contains(left, backupSuffix) {
				t.Errorf("left after undoing:\n%s", left)
			}
		})
	}
}

func TestUndoingGivesBackWhatWasThere(t *testing.T) {
	for _, name := range []string{"cilium", "flannel", "calico", "kindnet", "multus", "aws"} {
		before := folderAt(t, filepath.Join("testdata", name, "before"))
		change, err := Plan(before, settings)
		if err != nil {
			t.Fatal(err)
		}
		now := after(before, change)
		if diff := cmp.Diff(meaning(t, before), meaning(t, after(now, Undo(now)))); diff != "" {
			t.Errorf("%s (-before +after)\n%s", name, diff)
		}
	}
}

// meaning is a folder without regard to layout.
func meaning(t *testing.T, folder []File) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, f := range folder {
		all[f.Name] = string(f.Data)
		decoder := json.NewDecoder(bytes.NewReader(f.Data))
		decoder.UseNumber()
		var value any
		if runtimes(f.Name) {
			if err := decoder.Decode(&value); err != nil {
				t.Fatal(err)
			}
			all[f.Name] = value
		}
	}
	return all
}

func TestWhatCantBeChainedStaysAsItIs(t *testing.T) {
	if _, err := Plan([]File{{"README.md", nil}, {"10-a.conflist.cilium_bak", []byte("{}")}}, settings); !errors.Is(err, errNone) {
		t.Errorf("a folder without a configuration: %v", err)
	}
	for name, c := range map[string]struct{ file, data, want string }{
		"empty":                      {"10-a.conflist", ``, "10-a.conflist: unexpected end"},
		"half written":               {"10-a.conflist", `{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"pt`, "10-a.conflist: unexpected end"},
		"not an object":              {"10-a.conflist", `[]`, "cannot unmarshal"},
		"no plugins":                 {"10-a.conflist", `{"name":"a","cniVersion":"1.0.0"}`, "no list of plugins"},
		"an empty chain":             {"10-a.conflist", `{"name":"a","cniVersion":"1.0.0","plugins":[]}`, "no list of plugins"},
		"plugins of another kind":    {"10-a.conflist", `{"name":"a","cniVersion":"1.0.0","plugins":{"type":"ptp"}}`, "no list of plugins"},
		"a plugin without a type":    {"10-a.conflist", `{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"ptp"},{}]}`, "plugin 2 has no type"},
		"a plugin that is null":      {"10-a.conflist", `{"name":"a","cniVersion":"1.0.0","plugins":[null]}`, "plugin 1 has no type"},
		"no name":                    {"10-a.conflist", `{"cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`, "has no name"},
		"no version":                 {"10-a.conflist", `{"name":"a","plugins":[{"type":"ptp"}]}`, "from 0.3.1 on"},
		"a version before chains":    {"10-a.conflist", `{"name":"a","cniVersion":"0.2.0","plugins":[{"type":"ptp"}]}`, `cniVersion "0.2.0": a plugin can be added from 0.3.1 on`},
		"a version that is none":     {"10-a.conflist", `{"name":"a","cniVersion":"new","plugins":[{"type":"ptp"}]}`, `cniVersion "new"`},
		"a version that is a number": {"10-a.conflist", `{"name":"a","cniVersion":1,"plugins":[{"type":"ptp"}]}`, "cniVersion"},
		"nobody but us":              {"10-a.conflist", `{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"tulle-cni"}]}`, "no other plugin"},
		"a single one, broken":       {"10-a.conf", `{"name":`, "10-a.conf: unexpected end"},
		"a single one without type":  {"10-a.json", `{"name":"a","cniVersion":"1.0.0"}`, "has no type"},
		"a list in a .conf":          {"10-a.conf", `{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`, "has no type"},
	} {
		_, err := Plan([]File{{c.file, []byte(c.data)}, {"20-b.conflist", []byte(`{"name":"b","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`)}}, settings)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want %q", name, err, c.want)
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add("10-a.conflist", []byte(`{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`))
	f.Add("00-multus.conf", []byte(`{"name":"a","cniVersion":"0.3.1","type":"multus"}`))
	f.Add("10-a.conflist", []byte(`{"name":"a","cniVersion":"0.3.1","plugins":[{"type":"tulle-cni"},{"type":"x"},{"type":"tulle-cni"}]}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		folder := []File{{name, data}}
		Undo(folder)
		change, err := Plan(folder, settings)
		if err != nil {
			return
		}
		now := after(folder, change)
		if again, err := Plan(now, settings); err != nil || !again.Empty() {
			t.Errorf("not stable: %+v, %v", again, err)
		}
		used, _ := first(now)
		list, err := readList(used)
		if err != nil {
			t.Fatalf("a runtime couldn't read it: %v", err)
		}
		if !isOurs(list.plugins[len(list.plugins)-1]) || isOurs(list.plugins[0]) {
			t.Errorf("not at the end of the chain: %s", used.Data)
		}
		if left := after(now, Undo(now)); strings.Contains(text(left), `"cni_agent_run_dir":"/var/run/istio-cni"`) {
			t.Errorf("left after undoing:\n%s", text(left))
		}
	})
}
