// Package golden is for tests: it compares what becomes of objects, written as text, with files.
package golden

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/watch"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const in, out = ".in.yaml", ".out.yaml"

// Inputs are the texts of testdata/<case>.in.yaml, by case.
func Inputs(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*" + in)
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	inputs := make(map[string][]byte)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		inputs[strings.TrimSuffix(filepath.Base(file), in)] = text
	}
	return inputs
}

// Test compares what becomes of each input with testdata/<case>.out.yaml.
func Test(t *testing.T, become func(t *testing.T, input []byte) string) {
	for name, input := range Inputs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Match(t, become(t, input), name+out)
		})
	}
}

// Match compares with a file of testdata, or rewrites it.
func Match(t *testing.T, got, file string) {
	t.Helper()
	file = filepath.Join("testdata", file)
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
		t.Errorf("differs from %s (-want +got), rewrite with -update if that is meant:\n%s", file, diff)
	}
}

// Read takes a file's text through the watch, as the daemon does. Its second result says why it can't be used.
func Read(t testing.TB, text []byte) (all []model.Change, refusal error) {
	t.Helper()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "objects.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := watch.Files{
		Source: source, Status: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Apply:  func(changes []model.Change) { all = changes; cancel() },
		Report: func(err error) { refusal = err; cancel() },
	}.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return all, refusal
}

// MustRead is Read of what can be used.
func MustRead(t testing.TB, text []byte) []model.Change {
	t.Helper()
	all, refusal := Read(t, text)
	if refusal != nil {
		t.Fatal(refusal)
	}
	return all
}
