package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// cache returns a folder of the user's cache, and makes it if need be.
func cache(name string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("folder for what takes long to make: %w; set XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(base, "tulle", name)
	return dir, os.MkdirAll(dir, 0o755)
}

// once returns the folder kind/key of the user's cache. If it isn't there, it is made beside, and gets its name at the end: what was killed
// half-way counts for nothing.
func once(ctx context.Context, kind, key string, say func(string), make func(fresh string) error) (string, error) {
	base, err := cache(kind)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, key)
	there := func() bool { _, err := os.Stat(dir); return err == nil }
	if there() {
		return dir, nil
	}
	unlock, err := lock(ctx, base, func() { say("another process is making " + kind + "; waiting for it") })
	if err != nil {
		return "", err
	}
	defer unlock()
	if there() {
		return dir, nil // another process has just made it
	}
	fresh, err := os.MkdirTemp(base, ".fresh-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := errors.Join(make(fresh), os.Chmod(fresh, 0o755)); err != nil {
		return "", err
	}
	return dir, os.Rename(fresh, dir)
}

// lock waits until no other process holds the lock of a folder.
func lock(ctx context.Context, dir string, waits func()) (unlock func(), err error) {
	ticker := time.NewTicker(time.Second / 5)
	defer ticker.Stop()
	for told := false; ; told = true {
		unlock, err := tryLock(filepath.Join(dir, "lock"))
		if !errors.Is(err, errLocked) {
			return unlock, err
		}
		if !told {
			waits()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

var errLocked = errors.New("another process holds the lock")

// tryLock holds a file's lock until unlock, or until this process ends.
func tryLock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { file.Close() }, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errLocked
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}
