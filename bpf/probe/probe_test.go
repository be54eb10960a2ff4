package probe

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestThisKernelCanCapture(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := Mount(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := Mount(dir); err != nil {
		t.Errorf("mount again: %v", err)
	}
	home, _ := os.Readlink("/proc/self/ns/net") // of the first thread, which may be the one that tries
	for range 5 {
		if err := Capture(filepath.Join(dir, "tulle")); err != nil {
			t.Error(err)
		}
	}
	if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != home {
		t.Errorf("the process is in %s (%v), was in %s", now, err, home)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tulle", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWithoutABPFFilesystemTheErrorSaysSo(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	err := Capture(t.TempDir())
	if err == nil {
		t.Fatal("pinned outside of a bpffs")
	}
	t.Log(err)
}
