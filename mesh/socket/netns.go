// Package socket listens and dials inside network namespaces, with the marks, transparency and original destinations
// that capture needs.
package socket

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace, held open by a descriptor. The nil *Netns is the process's own.
// It is safe for concurrent use.
type Netns struct {
	file *os.File
	home *os.File // the process's own namespace, to come back to
	id   NetnsID
}

// NetnsID tells namespaces apart: two descriptors with the same id are one namespace. Ids may be reused by the kernel
// once no descriptor of the namespace is open.
type NetnsID struct {
	Dev, Ino uint64
}

// OpenNetns opens the namespace bound to a path such as /run/netns/x or /proc/1/ns/net.
func OpenNetns(path string) (*Netns, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return NetnsFromFile(file)
}

// NetnsFromFile takes over an open namespace file; the caller must not use it again, not even after an error.
func NetnsFromFile(file *os.File) (*Netns, error) {
	netns := &Netns{file: file}
	if err := netns.identify(); err != nil {
		file.Close()
		return nil, fmt.Errorf("network namespace %s: %w", file.Name(), err)
	}
	// The path is resolved on this thread, which is at home: only threads locked by Do are elsewhere.
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open the process's own network namespace: %w", err)
	}
	netns.home = home
	return netns, nil
}

// identify reads the id and makes sure that the descriptor is a network namespace.
func (n *Netns) identify() (err error) {
	n.id, err = IdentifyNetns(n.file)
	return err
}

// IdentifyNetns returns the id of an open namespace file, and an error for any other file.
func IdentifyNetns(file *os.File) (id NetnsID, err error) {
	err = control(file, func(fd int) (err error) {
		id, err = netnsID(fd)
		return err
	})
	return id, err
}

func netnsID(fd int) (NetnsID, error) {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return NetnsID{}, fmt.Errorf("not a namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return NetnsID{}, fmt.Errorf("is a namespace of another kind (%#x)", kind)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return NetnsID{}, fmt.Errorf("stat: %w", err)
	}
	return NetnsID{Dev: uint64(stat.Dev), Ino: stat.Ino}, nil
}

// ID returns the namespace's id; the zero NetnsID for the process's own.
func (n *Netns) ID() NetnsID {
	if n == nil {
		return NetnsID{}
	}
	return n.id
}

// Close releases the descriptor. Sockets made in the namespace live on; Do, Listen and Dial fail from now on.
func (n *Netns) Close() error {
	if n == nil {
		return nil
	}
	n.home.Close()
	return n.file.Close()
}

// Do runs f inside the namespace and returns its error, or why the thread could not leave it again. f must do its work on
// the calling goroutine and should be short: it occupies a thread.
func (n *Netns) Do(f func() error) error {
	if n == nil {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		v, err := n.enter()
		if err != nil {
			result <- err
			return
		}
		err = f()
		result <- errors.Join(err, v.leave())
	}()
	return <-result
}

// visit is a locked thread's stay in a foreign namespace.
type visit struct {
	home *os.File
}

// enter locks the calling goroutine to its thread and moves it into the namespace. The goroutine must be a fresh one
// that ends soon: where moving fails half-way, or leave fails, the thread stays locked and dies with it.
func (n *Netns) enter() (visit, error) {
	runtime.LockOSThread()
	if err := setns(n.file); err != nil {
		runtime.UnlockOSThread() // setns failed, so the thread never left
		return visit{}, fmt.Errorf("enter network namespace: %w", err)
	}
	return visit{home: n.home}, nil
}

// leave moves the thread back home and unlocks it.
func (v visit) leave() error {
	if err := setns(v.home); err != nil {
		return fmt.Errorf("leave network namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return nil
}

func setns(file *os.File) error {
	return control(file, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) })
}

// control runs f on the descriptor, which can't be closed meanwhile.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return os.ErrClosed // the only reason there is, but its own error is private to the standard library
	}
	return result
}
