package probe

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A bpffs in a container is seen by nobody else, so the next agent would find every pod without programs.
func TestABPFFilesystemIsNotMountedInAContainerOnly(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, test := range []struct {
		name        string
		propagation uintptr // of the container's mounts
		refused     bool
	}{
		{"mounts follow the host's (HostToContainer)", unix.MS_SLAVE, true},
		{"mounts reach the host's (Bidirectional)", unix.MS_SHARED, false},
		{"mounts of its own", unix.MS_PRIVATE, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			done := make(chan error)
			go func() {
				runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
				done <- inContainer(dir, test.propagation, func() error { return Mount(dir) })
			}()
			err := <-done
			if refused := err != nil; refused != test.refused {
				t.Fatalf("refused = %t (%v), want %t", refused, err, test.refused)
			}
			if err != nil && !strings.Contains(err.Error(), "mount -t bpf bpf "+dir) {
				t.Errorf("the error doesn't say what to do: %v", err)
			}
		})
	}
}

// inContainer calls f where dir is a mount that a container runtime has copied from a host.
func inContainer(dir string, propagation uintptr, f func() error) error {
	var host *os.File // keeps the host's mounts
	steps := []func() error{
		func() error { return unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS) },
		func() error { return unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") },
		func() error { return unix.Mount("host", dir, "tmpfs", 0, "") },
		func() error { return unix.Mount("", dir, "", unix.MS_SHARED, "") },
		func() (err error) { host, err = os.Open("/proc/thread-self/ns/mnt"); return err },
		func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		func() error { return unix.Mount("", dir, "", propagation, "") },
		f,
	}
	defer func() { _ = host.Close() }()
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
