package folder

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAFileThatIsMovedAwayToBeSavedKeepsItsObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "a.yaml")
		var applied []string
		s := newSet(Config[string]{
			Decode: func(d Document) (string, bool, error) { return d.Name, true, nil },
			Apply: func(gone, came []string) {
				applied = append(applied, fmt.Sprintf("%v -> %v", gone, came))
			},
			Report: func(err error) { t.Error(err) },
		})
		step := func(what string, awaited bool, want ...string) {
			t.Helper()
			if err := s.read(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			if s.awaited != awaited || !slices.Equal(applied, want) {
				t.Fatalf("%s: awaited %v, applied %q, want %v, %q", what, s.awaited, applied, awaited, want)
			}
		}
		write := func(name string) {
			if err := os.WriteFile(path, []byte("apiVersion: v1\nkind: Thing\nmetadata: {name: "+name+"}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		remove := func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		write("a")
		step("written", false, "[] -> [a]")
		remove()
		step("moved away", true, "[] -> [a]")
		time.Sleep(saving - 1)
		step("still gone", true, "[] -> [a]")
		write("b")
		step("saved", false, "[] -> [a]", "[a] -> [b]")
		time.Sleep(saving)
		remove()
		step("removed", true, "[] -> [a]", "[a] -> [b]")
		time.Sleep(saving)
		step("for good", false, "[] -> [a]", "[a] -> [b]", "[b] -> []")
	})
}

// A change costs what its file does, and what isn't changing costs no more than what was made of it.
func TestObjectsThatStayCostNothing(t *testing.T) {
	dir := t.TempDir()
	var text strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: Thing\nmetadata: {name: n%d, labels: {a: b}}\nlist: [a, b]\n", i)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("many.yaml", text.String())
	var came []int
	s := newSet(Config[int]{
		Decode: func(d Document) (int, bool, error) { return d.Line, true, nil },
		Apply:  func(_, new []int) { came = new },
		Report: func(err error) { t.Error(err) },
	})
	look := func(want int) (allocated uint64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := s.read(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if len(came) != want {
			t.Fatalf("%d objects came, want %d", len(came), want)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	var empty, full runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&empty)
	all := look(10_000)
	runtime.GC()
	runtime.ReadMemStats(&full)
	if kept := int64(full.HeapAlloc) - int64(empty.HeapAlloc); kept > 8<<20 {
		t.Errorf("%d KiB are kept of 10,000 objects", kept>>10)
	}
	write("one.yaml", "apiVersion: v1\nkind: Thing\nmetadata: {name: one}\n")
	if one := look(1); one > 128<<10 {
		t.Errorf("%d KiB are allocated for a new object beside 10,000, which took %d KiB", one>>10, all>>10)
	}
}

// Whatever happens to files, each object is in force once, of a file that is whole; and who follows the changes has what is in force.
func TestChangesAddUpToWhatIsInForce(t *testing.T) {
	names := []string{"a.yaml", "b.yaml", "c.yaml", "d.yaml"}
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			dir := t.TempDir()
			followed := map[string]int{} // how often an object is in force
			s := newSet(Config[string]{
				Decode: func(d Document) (string, bool, error) {
					if d.Name == "bad" {
						return "", false, errors.New("bad")
					}
					return fmt.Sprintf("%s %s:%s", d.Name, filepath.Base(d.File), d.APIVersion), true, nil
				},
				Apply: func(gone, came []string) {
					for _, object := range gone {
						if followed[object]--; followed[object] == 0 {
							delete(followed, object)
						}
					}
					for _, object := range came {
						followed[object]++
					}
				},
				Report: func(error) {},
			})
			for step := range 30 {
				name := names[random.IntN(len(names))]
				path := filepath.Join(dir, name)
				if random.IntN(4) == 0 {
					_ = os.Remove(path)
				} else {
					text := ""
					for range random.IntN(4) {
						object := []string{"x", "y", "z", "u", "v", "bad"}[random.IntN(6)]
						text += fmt.Sprintf("---\napiVersion: g/v%d\nkind: Thing\nmetadata: {name: %s}\n", step, object)
					}
					if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				s.touch(path)
				if random.IntN(2) == 0 {
					time.Sleep(saving)
				}
				if err := s.read(t.Context(), dir); err != nil {
					t.Fatal(err)
				}
				check(t, s, followed)
			}
		})
	}
}

func check(t *testing.T, s *set[string], followed map[string]int) {
	t.Helper()
	owners, values := map[key]*file[string]{}, map[string]int{}
	for name, f := range s.files {
		whole := slices.Equal(f.inForce, f.latest) && f.err == nil
		if pending := s.pending[name] != nil; pending == whole && (pending || len(f.latest) > 0 || f.err != nil) {
			t.Fatalf("%s: pending is %v: it says %v, %v, of which %v is in force", name, pending, f.latest, f.err, f.inForce)
		}
		for _, object := range f.inForce {
			if owners[object.key] != nil {
				t.Fatalf("%s is in force of %s and %s", object.key, owners[object.key].name, name)
			}
			owners[object.key] = f
			values[object.value]++
		}
	}
	if !maps.Equal(owners, s.owners) {
		t.Fatalf("owners are %v, want %v", s.owners, owners)
	}
	if s.applied && !maps.Equal(values, followed) {
		t.Fatalf("who follows has %v, want %v", followed, values)
	}
	for name, f := range s.pending {
		clashes := map[key]int{}
		for _, object := range f.latest {
			clashes[object.key]++
			if o := owners[object.key]; o != nil && o != f {
				clashes[object.key]++
			}
		}
		if f.err == nil && !slices.ContainsFunc(slices.Collect(maps.Values(clashes)), func(n int) bool { return n > 1 }) && len(s.pending) == 1 {
			t.Fatalf("%s could be used, and isn't", name)
		}
	}
}
