package folder_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/folder"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 10 * time.Second

// watched is a folder that is followed, with all that was applied and reported.
type watched struct {
	t   *testing.T
	dir string

	lock    sync.Mutex
	inForce []string // "name=value"
	applied []string // each all of these, sorted
	reports []string // without the folder
}

// thing is the object of these tests.
type thing struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Value string `json:"value"`
}

// newWatched makes a folder with files, which follow each other as name and text.
func newWatched(t *testing.T, files ...string) *watched {
	t.Helper()
	t.Parallel()
	w := &watched{t: t, dir: t.TempDir()}
	for i := 0; i < len(files); i += 2 {
		w.write(files[i], files[i+1])
	}
	return w
}

// follow watches the folder until the test ends.
func (w *watched) follow() *watched {
	w.t.Helper()
	return w.followWith(w.config())
}

func (w *watched) followWith(cfg folder.Config[string]) *watched {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- folder.Watch(ctx, w.dir, cfg) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return w
}

func (w *watched) config() folder.Config[string] {
	return folder.Config[string]{
		Decode: func(d folder.Document) (string, bool, error) {
			if d.Kind != "Thing" {
				return "", false, nil
			}
			var o thing
			if err := d.Decode(&o); err != nil {
				return "", false, err
			}
			if o.Value == "bad" {
				return "", false, d.At("value", fmt.Errorf("bad values are not wanted"))
			}
			return o.Metadata.Name + "=" + o.Value, true, nil
		},
		Apply: func(gone, came []string) {
			w.lock.Lock()
			defer w.lock.Unlock()
			for _, object := range gone {
				i := slices.Index(w.inForce, object)
				if i < 0 {
					w.t.Errorf("%s is gone, of %q", object, w.inForce)
					return
				}
				w.inForce = slices.Delete(w.inForce, i, i+1)
			}
			w.inForce = append(w.inForce, came...)
			slices.Sort(w.inForce)
			w.applied = append(w.applied, strings.Join(w.inForce, " "))
		},
		Report: func(err error) {
			w.lock.Lock()
			defer w.lock.Unlock()
			w.reports = append(w.reports, strings.ReplaceAll(err.Error(), w.dir+"/", ""))
		},
	}
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func (w *watched) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) replace(name, text string) {
	w.t.Helper()
	w.write(".new", text)
	if err := os.Rename(w.path(".new"), w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) remove(name string) {
	w.t.Helper()
	if err := os.Remove(w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

// until waits for a set to be in force.
func (w *watched) until(set string) {
	w.t.Helper()
	w.eventually("in force: "+set, func() bool {
		return len(w.applied) > 0 && w.applied[len(w.applied)-1] == set
	})
}

// reported waits for a report.
func (w *watched) reported(text string) {
	w.t.Helper()
	w.eventually("reported: "+text, func() bool { return slices.Contains(w.reports, text) })
}

func (w *watched) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		w.lock.Lock()
		done := ok()
		applied, reports := slices.Clone(w.applied), slices.Clone(w.reports)
		w.lock.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not %s\napplied %.2000q\nreported %q", what, applied, reports)
		}
	}
}

// history returns everything applied since the start.
func (w *watched) history() []string {
	w.lock.Lock()
	defer w.lock.Unlock()
	return slices.Clone(w.applied)
}

func object(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Thing\nmetadata: {name: %s}\nvalue: %q\n", name, value)
}

func TestAnEmptyFolderIsAnEmptySet(t *testing.T) {
	newWatched(t).follow().until("")
}

func TestFilesAreFollowed(t *testing.T) {
	w := newWatched(t, "b.yaml", object("b", "1")+"---\n"+object("c", "1"), "a.yml", object("a", "1")).follow()
	w.until("a=1 b=1 c=1")
	w.write("d.yaml", object("d", "1"))
	w.until("a=1 b=1 c=1 d=1")
	w.write("b.yaml", object("b", "2"))
	w.until("a=1 b=2 d=1")
	w.replace("a.yml", object("a", "2"))
	w.until("a=2 b=2 d=1")
	w.remove("b.yaml")
	w.until("a=2 d=1")
}

func TestAnEditorsWayOfSaving(t *testing.T) {
	w := newWatched(t, "a.yaml", object("a", "1")).follow()
	w.until("a=1")
	// Swap and backup files aside, as vim and emacs make them.
	w.write(".a.yaml.swp", "\x00\x01")
	if err := os.Symlink("user@host.1234", w.path(".#a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.write("a.yaml~", object("a", "0"))
	// Renamed away, truncated, and written in pieces.
	if err := os.Rename(w.path("a.yaml"), w.path("a.yaml~")); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(w.path("a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range strings.SplitAfter(object("a", "2"), "\n") {
		if _, err := file.WriteString(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	w.until("a=2")
	if history := w.history(); len(history) != 2 {
		t.Errorf("applied %q on the way", history)
	}
}

func TestABrokenFileKeepsWhatItHadUntilMended(t *testing.T) {
	w := newWatched(t, "a.yaml", object("a", "1"), "b.yaml", object("b", "1")).follow()
	w.until("a=1 b=1")
	for i, c := range []struct{ text, report string }{
		{"kind: [", "a.yaml:1: did not find expected node content"},
		{"", "a.yaml: file is empty: delete it to remove its objects"},
		{"\n\n", "a.yaml: file is empty: delete it to remove its objects"},
		{object("a", "2") + "valeu: 3\n", "a.yaml:5: valeu: unknown field"},
		{object("a", "bad"), "a.yaml:4: value: bad values are not wanted"},
		{object("a", "2") + "---\n" + object("a", "3"), "a.yaml:6: Thing a is already in a.yaml:1"},
		{object("a", "2") + "# \xff\n", "a.yaml:5: not UTF-8 text"},
		{object("a", "2") + strings.Repeat("#", 1<<20), "a.yaml: file exceeds 1048576 bytes: split it"},
	} {
		w.write("a.yaml", c.text)
		w.reported(c.report)
		// The rest of the folder goes on.
		value := fmt.Sprint("round", i)
		w.write("b.yaml", object("b", value))
		w.until("a=1 b=" + value)
	}
	w.write("a.yaml", object("a", "2"))
	w.until("a=2 b=round7")
}

func TestNothingIsAppliedWhileAFileIsBrokenFromTheStart(t *testing.T) {
	w := newWatched(t, "a.yaml", object("a", "1"), "b.yaml", "kind: Thing\n", "c.yaml", object("a", "2")).follow()
	w.reported("b.yaml:1: apiVersion: missing")
	w.reported("c.yaml:1: Thing a is already in a.yaml:1")
	w.write("b.yaml", object("b", "1"))
	w.write("d.yaml", object("d", "bad"))
	w.reported("d.yaml:4: value: bad values are not wanted")
	if history := w.history(); len(history) != 0 {
		t.Errorf("applied %q", history)
	}
	w.remove("d.yaml")
	w.write("c.yaml", object("c", "1"))
	w.until("a=1 b=1 c=1")
	if history := w.history(); len(history) != 1 {
		t.Errorf("applied %q", history)
	}
}

func TestAFileThatStandsForItselfDoesNotWaitForABrokenOne(t *testing.T) {
	w := newWatched(t, "a.yaml", object("a", "1"), "b.yaml", object("b", "bad"))
	cfg := w.config()
	cfg.Apart = true
	w.followWith(cfg)
	w.until("a=1")
	w.reported("b.yaml:4: value: bad values are not wanted")
	w.write("b.yaml", object("b", "1"))
	w.until("a=1 b=1")
	w.write("b.yaml", object("b", "bad"))
	w.write("a.yaml", object("a", "2"))
	w.until("a=2 b=1")
}

func TestAnObjectStaysWithTheFileThatHadItFirst(t *testing.T) {
	w := newWatched(t, "m.yaml", object("x", "1")).follow()
	w.until("x=1")
	w.write("a.yaml", object("x", "2")+"---\n"+object("y", "2"))
	w.reported("a.yaml:1: Thing x is already in m.yaml:1")
	// When the owner gives it up, the other file is good at once, and all of it.
	w.write("m.yaml", object("z", "1"))
	w.until("x=2 y=2 z=1")
	// Both change hands at once.
	w.replace("m.yaml", object("x", "3"))
	w.replace("a.yaml", object("z", "3"))
	w.until("x=3 z=3")
}

func TestAMountedConfigMapIsSwapped(t *testing.T) {
	w := newWatched(t)
	version := func(name, value string) {
		if err := os.Mkdir(w.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
		w.write(name+"/a.yaml", object("a", value))
		if err := os.Symlink(name, w.path("..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(w.path("..data_tmp"), w.path("..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "1")
	if err := os.Symlink("..data/a.yaml", w.path("a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.follow().until("a=1")
	version("..2", "2")
	w.until("a=2")
}

func TestALinkOutOfTheFolderIsLookedAtNowAndThen(t *testing.T) {
	w := newWatched(t)
	outside := filepath.Join(t.TempDir(), "outside.yaml")
	if err := os.Symlink(outside, w.path("a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.follow().reported("a.yaml: stat " + w.path("a.yaml")[len(w.dir)+1:] + ": no such file or directory")
	if err := os.WriteFile(outside, []byte(object("a", "1")), 0o600); err != nil {
		t.Fatal(err)
	}
	w.until("a=1")
}

func TestOtherThanFilesAreReported(t *testing.T) {
	w := newWatched(t)
	if err := os.Mkdir(w.path("folder.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(w.path("pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.follow()
	w.reported("folder.yaml: not a regular file")
	w.reported("pipe.yaml: not a regular file")
}

func TestAFolderThatVanishesKeepsItsObjectsUntilItIsBack(t *testing.T) {
	w := newWatched(t, "a.yaml", object("a", "1")).follow()
	w.until("a=1")
	aside := w.dir + "-aside"
	if err := os.Rename(w.dir, aside); err != nil {
		t.Fatal(err)
	}
	w.eventually("reported", func() bool {
		return len(w.reports) == 1 && strings.HasPrefix(w.reports[0], "read folder "+w.dir)
	})
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.write("b.yaml", object("b", "1"))
	w.until("b=1")
	w.write("b.yaml", object("b", "2"))
	w.until("b=2")
	if err := os.RemoveAll(aside); err != nil {
		t.Fatal(err)
	}
}

func TestAMissingFolderIsAnError(t *testing.T) {
	w := newWatched(t)
	for _, dir := range []string{w.path("missing"), w.path("file")} {
		w.write("file", "")
		if err := folder.Watch(t.Context(), dir, w.config()); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestManyObjectsOfOneFileAreNoWork(t *testing.T) {
	var text strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&text, "---\n{apiVersion: v1, kind: Thing, metadata: {name: n%d}, value: v}\n", i)
	}
	w := newWatched(t, "a.yaml", text.String()).follow()
	w.eventually("applied", func() bool { return len(w.applied) == 1 && strings.Count(w.applied[0], "=") == 10_000 })
	start := time.Now()
	w.write("b.yaml", object("b", "1"))
	w.eventually("applied", func() bool { return len(w.applied) == 2 })
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("another file took %s", took)
	}
}
