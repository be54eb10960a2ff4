// Package wire makes network namespaces that are pinned to files, and the links between them.
package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Dir is where `ip netns` looks too, so that its users see our namespaces.
const Dir = "/run/netns"

// Netns is a network namespace and its file.
type Netns struct {
	*socket.Netns
	Path string
}

// Open opens one that exists.
func Open(path string) (*Netns, error) {
	netns, err := socket.OpenNetns(path)
	if err != nil {
		return nil, err
	}
	return &Netns{netns, path}, nil
}

// Make creates a network namespace and prepares it: loopback up, and a congestion control that
// measures the same on every machine (BBR, the default of some, distorts virtual links).
func Make(path string) (*Netns, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", path, err)
	}
	file.Close()
	if err := bindNew(path); err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("make network namespace %s: %w", path, err)
	}
	netns, err := Open(path)
	if err != nil {
		return nil, err
	}
	err = netns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0) })
	if err != nil {
		return nil, fmt.Errorf("set the congestion control of %s: %w", path, err)
	}
	return netns, nil
}

// bindNew makes a namespace and pins it to path.
func bindNew(path string) error {
	return Elsewhere(func() error {
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		return nil
	})
}

// Elsewhere runs f in a new network namespace, which goes when f ends unless f has pinned it. The thread comes back
// home: to let it die instead, as is usual, doesn't work for a process's first thread, which then stays there for good.
func Elsewhere(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- fmt.Errorf("open the process's own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("unshare: %w", err)
			return
		}
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			result <- errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
			return // Still locked, so the thread serves nobody from there.
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

// Remove undoes Make, and whatever half of it a crash left behind.
func Remove(path string) error {
	if err := Unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// Unmount takes away all that is mounted on a path, which may be nothing.
func Unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // Not mounted, or not there at all.
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}
