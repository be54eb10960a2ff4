// Package file follows single files that others replace: an editor, or the kubelet, which swaps the symbolic link to a
// whole folder.
package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long the files' folders must rest before the files are looked at: editors write in several steps.
	quiet = 100 * time.Millisecond
	// resync is how often they are looked at without a notice: symbolic links into other folders give none.
	resync = 5 * time.Second
)

// Files are files as they were when somebody looked. They aren't safe for concurrent use.
type Files struct {
	paths   []string
	seen    []os.FileInfo // nil where there was no file
	notices *fsnotify.Watcher
	changed func()
}

// Look remembers how the files are now; read them afterwards, so that no change is lost. They and their folders may be
// missing.
func Look(paths ...string) *Files { return &Files{paths: paths, seen: stat(paths)} }

func stat(paths []string) []os.FileInfo {
	seen := make([]os.FileInfo, len(paths))
	for i, path := range paths {
		seen[i], _ = os.Stat(path)
	}
	return seen
}

// Follow calls changed whenever one of the files is another one than before, or is gone, until the context ends. Calls never
// overlap: a slow changed hears of several changes as of one.
func (f *Files) Follow(ctx context.Context, changed func()) error {
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("follow %s: %w", strings.Join(f.paths, ", "), err)
	}
	defer notices.Close()
	f.notices, f.changed = notices, changed
	f.attach()
	f.run(ctx)
	return nil
}

func (f *Files) run(ctx context.Context) {
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	rest := time.NewTimer(0) // it may have changed since Look
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.notices.Events:
			rest.Reset(quiet)
		case <-f.notices.Errors: // notices were lost
			rest.Reset(quiet)
		case <-rest.C:
			f.look()
		case <-ticker.C:
			f.attach()
			f.look()
		}
	}
}

// attach asks for notices of the folders which the paths name now. Asking again is harmless; a folder that isn't there is
// asked for at the next tick.
func (f *Files) attach() {
	for _, path := range f.paths {
		_ = f.notices.Add(filepath.Dir(path))
	}
}

func (f *Files) look() {
	now := stat(f.paths)
	if slices.EqualFunc(f.seen, now, same) {
		return
	}
	f.seen = now
	f.changed()
}

func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
