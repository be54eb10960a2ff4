package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// set is what the folder's files say now, and what of it is in force. The two differ while a file is broken.
type set[T any] struct {
	cfg     Config[T]
	files   map[string]*file[T] // by name within the folder
	pending map[string]*file[T] // those of files that say other than what is in force of them
	owners  map[key]*file[T]    // which file an object is in force of, by its key
	gone    []T                 // was in force, of files that are gone, since the last Apply
	stale   bool                // a file was read, or is gone, since the last decision
	applied bool                // Apply was called once
	awaited bool                // a file is gone that may be about to be written: look again when saving is over
}

// file is one file of the folder.
type file[T any] struct {
	name    string
	info    os.FileInfo // when it was read; nil asks to read it again
	latest  []object[T] // what it says, if err is nil
	err     error       // why it can't be used
	inForce []object[T] // what it said when it was last used
	told    string      // what was last reported
	gone    time.Time   // since when there is no such file; zero if there is
}

// object is one decoded document. What it was decoded of isn't kept.
type object[T any] struct {
	key   key    // zero in plain documents
	file  string // its path
	line  int
	value T
}

func newSet[T any](cfg Config[T]) *set[T] {
	return &set[T]{cfg: cfg, files: make(map[string]*file[T]), owners: make(map[key]*file[T]), pending: make(map[string]*file[T])}
}

// touch says that the file changed, even if it doesn't look so: two writes within a clock tick have the same time.
func (s *set[T]) touch(path string) {
	if f := s.files[filepath.Base(path)]; f != nil {
		f.info = nil
	}
}

func (s *set[T]) touchAll() {
	for _, f := range s.files {
		f.info = nil
	}
}

// read looks at the folder and calls Apply and Report as needed. Its error is about the folder, or says that the context
// ended; then nothing changes.
func (s *set[T]) read(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	s.awaited = false
	present := make(map[string]bool, len(entries))
	for _, entry := range entries {
		// Names that begin with a dot are the lock and swap files of editors, and the folders behind mounted ConfigMaps.
		name := entry.Name()
		if extension := filepath.Ext(name); strings.HasPrefix(name, ".") || extension != ".yaml" && extension != ".yml" {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		present[name] = s.refresh(dir, name)
	}
	for name, f := range s.files {
		if !present[name] && !s.await(f) {
			s.gone = append(s.gone, s.retire(f)...)
			s.stale = true
			delete(s.files, name)
			delete(s.pending, name)
		}
	}
	if s.stale || !s.applied {
		s.settle()
	}
	s.stale = false
	return nil
}

// refresh reads the file if it changed, and tells whether it is still there.
func (s *set[T]) refresh(dir, name string) bool {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		if _, gone := os.Lstat(path); errors.Is(gone, fs.ErrNotExist) {
			return false
		}
	}
	f := s.files[name]
	if f == nil {
		f = &file[T]{name: name}
		s.files[name] = f
	}
	f.gone = time.Time{}
	if err == nil && f.info != nil && same(f.info, info) {
		return true
	}
	s.stale, s.pending[name] = true, f
	f.info, f.latest, f.err = info, nil, err
	if err == nil {
		f.latest, f.err = s.load(path, info)
	}
	var located *Error
	if f.err != nil && !errors.As(f.err, &located) {
		f.err = &Error{File: path, Err: f.err}
	}
	return true
}

// await tells whether a file that is gone may be about to be written, so that what is in force stays.
func (s *set[T]) await(f *file[T]) bool {
	if f.gone.IsZero() {
		f.gone = time.Now()
	}
	waits := len(f.inForce) > 0 && time.Since(f.gone) < saving
	s.awaited = s.awaited || waits
	return waits
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// load reads and decodes a whole file.
func (s *set[T]) load(path string, info os.FileInfo) ([]object[T], error) {
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	// Without blocking, should it have become a pipe just now.
	in, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, err
	}
	documents, err := parse(path, data, s.cfg.Plain)
	if err != nil {
		return nil, err
	}
	objects := make([]object[T], 0, len(documents))
	for _, document := range documents {
		value, ok, err := s.cfg.Decode(document)
		var located *Error
		if err != nil && !errors.As(err, &located) {
			err = &Error{File: path, Line: document.Line, Err: err}
		}
		if err != nil {
			return nil, err
		}
		if ok {
			objects = append(objects, object[T]{key: keyOf(document, s.cfg.Plain), file: document.File, line: document.Line, value: value})
		}
	}
	return objects, nil
}

// key names an object as Kubernetes would: two versions of a group are the same object.
type key struct{ kind, group, namespace, name string }

func keyOf(d Document, plain bool) key {
	if plain {
		return key{}
	}
	k := key{kind: d.Kind, namespace: d.Namespace, name: d.Name}
	if group, _, found := strings.Cut(d.APIVersion, "/"); found {
		k.group = group
	}
	switch {
	case slices.Contains(clusterWide, k.kind):
		k.namespace = "" // whatever is written
	case k.namespace == "":
		k.namespace = "default"
	}
	return k
}

// clusterWide are the kinds that are in no namespace, of those that are read of folders.
var clusterWide = []string{"Namespace", "Node", "GatewayClass"}

func (k key) String() string {
	if k.namespace == "" || k.namespace == "default" {
		return k.kind + " " + k.name
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

// settle decides what is in force, reports what is broken, and applies. Its cost goes by the files that are pending.
func (s *set[T]) settle() {
	broken := s.resolve()
	var came []T
	for _, name := range slices.Sorted(maps.Keys(s.pending)) {
		f := s.pending[name]
		if err := broken[name]; err == nil {
			s.gone = append(s.gone, s.retire(f)...)
			came = append(came, s.enforce(f)...)
			delete(s.pending, name)
		} else if f.told != err.Error() {
			f.told = err.Error()
			s.cfg.Report(err)
		}
	}
	switch {
	case !s.applied && len(broken) > 0 && !s.cfg.Apart:
		return
	case !s.applied:
		s.applied = true
		s.cfg.Apply(nil, s.all())
	case len(s.gone)+len(came) > 0:
		s.cfg.Apply(s.gone, came)
	}
	s.gone = nil
}

// retire takes a file's objects out of force, and returns them.
func (s *set[T]) retire(f *file[T]) (gone []T) {
	for _, object := range f.inForce {
		if s.owners[object.key] == f { // else another has taken it over
			delete(s.owners, object.key)
		}
		gone = append(gone, object.value)
	}
	f.inForce = nil
	return gone
}

// enforce puts into force what a file says, and returns it.
func (s *set[T]) enforce(f *file[T]) (came []T) {
	f.inForce, f.told = f.latest, ""
	for _, object := range f.inForce {
		if object.key != (key{}) {
			s.owners[object.key] = f
		}
		came = append(came, object.value)
	}
	return came
}

func (s *set[T]) all() (all []T) {
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		for _, object := range s.files[name].inForce {
			all = append(all, object.value)
		}
	}
	return all
}

// resolve finds the pending files that can't be used: broken ones, and those with an object that another file has. Of two files
// the one that has it in force keeps it, else the one whose name comes first. A file that falls back to what it had in
// force may so take an object from another, hence the repetition; each round adds a file, so it ends.
func (s *set[T]) resolve() map[string]error {
	broken := make(map[string]error)
	for name, f := range s.pending {
		if f.err != nil {
			broken[name] = f.err
		}
	}
	for {
		name, err := s.clash(broken)
		if err == nil {
			return broken
		}
		broken[name] = err
	}
}

// clash finds one pending file that has an object of another, if those already found broken are as they were.
func (s *set[T]) clash(broken map[string]error) (string, error) {
	claims := make(map[key]object[T])
	names := slices.Sorted(maps.Keys(s.pending))
	for _, incumbents := range []bool{true, false} {
		for _, name := range names {
			f := s.pending[name]
			objects := f.latest
			if broken[name] != nil {
				objects = f.inForce
			}
			for _, object := range objects {
				if object.key == (key{}) || (s.owners[object.key] == f) != incumbents {
					continue
				}
				claim, taken := claims[object.key]
				if !taken {
					claim, taken = s.settled(object.key)
				}
				if taken && broken[name] == nil {
					return name, duplicate(object, claim)
				}
				claims[object.key] = object
			}
		}
	}
	return "", nil
}

// settled finds an object that stays in force whatever the pending files say.
func (s *set[T]) settled(of key) (found object[T], ok bool) {
	f := s.owners[of]
	if f == nil || s.pending[f.name] != nil {
		return found, false
	}
	i := slices.IndexFunc(f.inForce, func(o object[T]) bool { return o.key == of })
	return f.inForce[i], true
}

func duplicate[T any](o, owner object[T]) error {
	return &Error{File: o.file, Line: o.line, Err: fmt.Errorf("%s is already in %s:%d", o.key, owner.file, owner.line)}
}
