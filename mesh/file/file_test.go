package file_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/file"
)

const patience = 10 * time.Second

// follow begins to follow and returns how to wait for the next notice.
func follow(t *testing.T, path string) (next func(what string)) {
	t.Helper()
	notices := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	seen := file.Look(path)
	go func() { ended <- seen.Follow(ctx, func() { notices <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	next = func(what string) {
		t.Helper()
		select {
		case <-notices:
		case <-time.After(patience):
			t.Fatalf("no notice that %s", what)
		}
	}
	return next
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFileThatComesChangesAndGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	next := follow(t, path)
	write(t, path, "one")
	next("it has come")
	write(t, path, "other")
	next("it was written anew")
	write(t, path+".new", "third")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	next("it was replaced")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next("it is gone")
}

// The kubelet writes a new folder, then swaps the link ..data, through which the file is reached.
func TestFileOfAConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "f"), text)
		if err := os.Symlink(version, filepath.Join(dir, "..data.new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data.new"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("..1", "one")
	path := filepath.Join(dir, "f")
	if err := os.Symlink("..data/f", path); err != nil {
		t.Fatal(err)
	}
	next := follow(t, path)
	publish("..2", "two")
	next("the link was swapped")
	if text, err := os.ReadFile(path); err != nil || string(text) != "two" {
		t.Errorf("after the notice: %q, %v", text, err)
	}
}

func TestChangeBeforeFollowingIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	seen := file.Look(path)
	write(t, path, "one")
	ctx, cancel := context.WithCancel(t.Context())
	noticed := false
	if err := seen.Follow(ctx, func() { noticed = true; cancel() }); err != nil || !noticed {
		t.Errorf("%v, noticed: %v", err, noticed)
	}
}

func TestFolderThatComesLater(t *testing.T) {
	t.Parallel() // it waits for seconds
	dir := filepath.Join(t.TempDir(), "later")
	next := follow(t, filepath.Join(dir, "f"))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "f"), "one")
	next("it has come")
}
