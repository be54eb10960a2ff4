// Package probe finds out what the kernel lets us do, by doing it in a network namespace that is thrown away. Versions of kernels say
// little: distributions move features about.
package probe

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/bpf/capture"
)

// Capture tells why package capture can't work here, or nil. It pins objects below dir for a moment.
func Capture(dir string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine, unless it's the process's first
		result <- inNamespace(dir)
	}()
	return <-result
}

func inNamespace(dir string) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the process's own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace (needs CAP_SYS_ADMIN): %w", err)
	}
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the new network namespace: %w", err)
	}
	defer netns.Close()
	pins := filepath.Join(dir, fmt.Sprintf("probe-%d", os.Getpid()))
	return errors.Join(use(pins, int(netns.Fd())), capture.Remove(pins), unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
}

// use does once what is done with every pod.
func use(pins string, netns int) error {
	if err := capture.Remove(pins); err != nil { // of a process with our number that was killed
		return err
	}
	pod, err := capture.Create(pins)
	if err != nil {
		return err
	}
	defer pod.Close()
	for range 2 { // the second time replaces what the first has attached
		if err := pod.Attach(netns, []int{loopback}, []int{loopback}); err != nil {
			return err
		}
	}
	fd, err := listen()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := pod.Listen(map[capture.Slot]int{capture.Outbound: fd}); err != nil {
		return err
	}
	at, err := pod.Attached()
	if err == nil && (at.Netns == 0 || len(at.Interfaces) != 1) {
		err = errors.New("programs were attached but don't show up: does another program remove them?")
	}
	return err
}

// loopback is lo's interface index.
const loopback = 1

// listen makes a socket like the proxy's.
func listen() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(net.IPv4zero.To4())}), unix.Listen(fd, 1)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("listen: %w", err)
	}
	return fd, nil
}
