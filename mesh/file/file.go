// Package file follows a single file that others replace: an editor, or the kubelet, which swaps the symbolic link to a
// whole folder.
package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long the file's folder must rest before the file is looked at: editors write in several steps.
	quiet = 100 * time.Millisecond
	// resync is how often it is looked at without a notice: symbolic links into other folders give none.
	resync = 5 * time.Second
)

// Follow calls changed at once, and then whenever the file is another one than before or is gone, until the context ends.
// The file and its folder may be missing. Calls never overlap: a slow changed hears of several changes as of one.
func Follow(ctx context.Context, path string, changed func()) error {
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("follow %s: %w", path, err)
	}
	defer notices.Close()
	f := follower{path: path, notices: notices, changed: changed}
	f.attach()
	f.seen, _ = os.Stat(path)
	f.changed()
	f.run(ctx)
	return nil
}

type follower struct {
	path    string
	notices *fsnotify.Watcher
	changed func()
	seen    os.FileInfo // nil where there is no file
}

func (f *follower) run(ctx context.Context) {
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	rest := time.NewTimer(0)
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

// attach asks for notices of the folder which the path names now. Asking again is harmless; a folder that isn't there is
// asked for at the next tick.
func (f *follower) attach() { _ = f.notices.Add(filepath.Dir(f.path)) }

func (f *follower) look() {
	now, _ := os.Stat(f.path)
	if same(f.seen, now) {
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
