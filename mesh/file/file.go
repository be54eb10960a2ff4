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

// File is a file as it was when somebody looked. It isn't safe for concurrent use.
type File struct {
	path    string
	seen    os.FileInfo // nil where there was no file
	notices *fsnotify.Watcher
	changed func()
}

// Look remembers how the file is now; read it afterwards, so that no change is lost. It and its folder may be missing.
func Look(path string) *File {
	f := &File{path: path}
	f.seen, _ = os.Stat(path)
	return f
}

// Follow calls changed whenever the file is another one than before, or is gone, until the context ends. Calls never
// overlap: a slow changed hears of several changes as of one.
func (f *File) Follow(ctx context.Context, changed func()) error {
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("follow %s: %w", f.path, err)
	}
	defer notices.Close()
	f.notices, f.changed = notices, changed
	f.attach()
	f.run(ctx)
	return nil
}

func (f *File) run(ctx context.Context) {
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

// attach asks for notices of the folder which the path names now. Asking again is harmless; a folder that isn't there is
// asked for at the next tick.
func (f *File) attach() { _ = f.notices.Add(filepath.Dir(f.path)) }

func (f *File) look() {
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
