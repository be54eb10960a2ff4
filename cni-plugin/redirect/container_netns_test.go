package redirect_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Runtimes make /proc/sys read-only in containers that aren't privileged.
func TestSettingsAreChangedWhereProcSysIsReadOnly(t *testing.T) {
	pod := netns.New(t, "tulle-redirect-test")
	const setting = "/proc/sys/net/ipv4/tcp_tw_reuse"
	inContainer := func() error {
		runtime.LockOSThread() // which ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		for _, mount := range []struct {
			on    string
			flags uintptr
		}{{"/", unix.MS_REC | unix.MS_PRIVATE}, {"/proc/sys", unix.MS_BIND}, {"/proc/sys", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY}} {
			if err := unix.Mount(mount.on, mount.on, "", mount.flags, ""); err != nil {
				return fmt.Errorf("mount on %s: %w", mount.on, err)
			}
		}
		file := pod.File()
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := os.WriteFile(setting, []byte("1"), 0); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("/proc/sys isn't read-only: %v", err)
		}
		return redirect.WriteSysctl("net.ipv4.tcp_tw_reuse", "1")
	}
	result := make(chan error, 1)
	go func() { result <- inContainer() }()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	err := pod.Do(func() error {
		if value, err := os.ReadFile(setting); err != nil || strings.TrimSpace(string(value)) != "1" {
			return fmt.Errorf("%s is %q: %v", setting, value, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// An agent that isn't in the node's network has one of its own, which is a pod's like any other.
func TestTheAgentsOwnPodIsNotTheNode(t *testing.T) {
	node := netns.New(t, "tulle-redirect-test")
	own, err := socket.OpenNetns("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	engines, err := redirect.New(redirect.Config{Engine: string(redirect.NFT), Node: node.Netns, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engines.Current(own); err != nil {
		t.Errorf("its own: %v", err)
	}
	if _, err := engines.Current(node.Netns); err == nil || !strings.Contains(err.Error(), "the node's own network namespace") {
		t.Errorf("the node's: %v", err)
	}
}
