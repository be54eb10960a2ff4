package folder

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
