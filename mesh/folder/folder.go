// Package folder reads a folder of YAML objects, as kubectl would apply them, and follows it live: after every change it
// hands on the objects of the files that changed. A file that cannot be used is reported with its line and keeps the objects it last
// had in force, so that a slip of the pen never takes anything out of service.
package folder

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long a folder must rest before it is read: editors write in several steps.
	quiet = 10 * time.Millisecond
	// saving is how long a file may be gone before its objects are: editors move it away before they write it.
	saving = 100 * time.Millisecond
	// impatient is after how long it is read even if it doesn't rest.
	impatient = 500 * time.Millisecond
	// resync is how often the folder is looked at without a notice: symbolic links into other folders give none.
	resync = 5 * time.Second
)

// Config says what to do with a folder's objects of type T. Its functions are called from the goroutine that runs
// Watch, never two at a time.
type Config[T any] struct {
	// Decode makes an object of a document. ok is false where the document is of a kind that the caller doesn't read.
	// An error makes the file a broken one; Document.At tells its line. Called once per document of a changed file.
	Decode func(Document) (object T, ok bool, err error)
	// Apply takes what is in force no more, in any order, and what has come into force, by file name and place in the file. A file
	// that was written anew has all its objects in both. It is called once with all there is as soon as no file is broken, so never
	// with half of a folder unless Apart says so, and then after every change.
	Apply func(gone, came []T)
	// Report takes the reason why a file, or the folder, can't be used; an *Error where it is about a file. It is called
	// once per reason, not once per look.
	Report func(error)
	// Plain says that documents aren't Kubernetes objects: no kind and no name is asked for.
	Plain bool
	// Apart says that each file stands for itself: one that is broken from the start counts as absent, and the first Apply
	// doesn't wait for it.
	Apart bool
}

// Watch follows the folder until the context ends, which isn't an error. It fails if the folder can't be watched at the
// start; one that vanishes later is reported, and its objects stay in force until it is back.
func Watch[T any](ctx context.Context, dir string, cfg Config[T]) error {
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch folder %s: %w", dir, err)
	}
	defer notices.Close()
	w := &watcher[T]{dir: dir, notices: notices, set: newSet(cfg), timer: time.NewTimer(0)}
	if err := w.attach(); err != nil {
		return fmt.Errorf("watch folder %s: %w", dir, err)
	}
	w.run(ctx)
	return nil
}

// watcher decides when to read the folder. All of it belongs to the goroutine of run.
type watcher[T any] struct {
	dir     string
	notices *fsnotify.Watcher
	set     *set[T]

	attached os.FileInfo // the folder that notices come from; nil if it is gone
	trouble  string      // what was last reported of the folder itself

	timer *time.Timer // runs to the next read
	first time.Time   // of the notices since the last read; zero if there is none
}

func (w *watcher[T]) run(ctx context.Context) {
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	defer w.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-w.notices.Events:
			w.set.touch(event.Name)
			w.schedule()
		case err := <-w.notices.Errors:
			// Notices were lost, so each file may have changed.
			w.set.touchAll()
			w.complain(fmt.Errorf("watch folder %s: %w", w.dir, err))
			w.schedule()
		case <-ticker.C:
			w.read(ctx)
		case <-w.timer.C:
			w.read(ctx)
		}
	}
}

// schedule puts the next read off until the folder rests.
func (w *watcher[T]) schedule() {
	now := time.Now()
	if w.first.IsZero() {
		w.first = now
	}
	w.timer.Reset(min(quiet, max(0, w.first.Add(impatient).Sub(now))))
}

func (w *watcher[T]) read(ctx context.Context) {
	w.first = time.Time{}
	err := w.attach()
	if err == nil {
		err = w.set.read(ctx, w.dir)
	}
	if ctx.Err() != nil {
		return
	}
	if w.set.awaited {
		w.timer.Reset(saving)
	}
	if err != nil {
		w.complain(fmt.Errorf("read folder %s: %w", w.dir, err))
		return
	}
	w.trouble = ""
}

// attach asks for notices of the folder that the path names now: it may have been replaced.
func (w *watcher[T]) attach() error {
	info, err := os.Stat(w.dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("not a folder")
	}
	if err != nil {
		w.attached = nil
		return err
	}
	if w.attached != nil && os.SameFile(w.attached, info) {
		return nil
	}
	if w.attached != nil {
		// The notices of a removed folder end by themselves; then there is nothing to remove.
		_ = w.notices.Remove(w.dir)
	}
	if err := w.notices.Add(w.dir); err != nil {
		w.attached = nil
		return err
	}
	w.attached = info
	return nil
}

// complain reports what is wrong with the folder, once.
func (w *watcher[T]) complain(err error) {
	if err.Error() != w.trouble {
		w.trouble = err.Error()
		w.set.cfg.Report(err)
	}
}
