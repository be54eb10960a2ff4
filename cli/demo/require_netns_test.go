package demo

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWithoutRootItSaysWhatToDo(t *testing.T) {
	result := make(chan error, 1)
	go func() {
		// Raw, so that this thread alone gives root up; it ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			result <- errno
			return
		}
		result <- Require(Spec{})
	}()
	const want = "needs root to make network namespaces: sudo tulle demo"
	if err := <-result; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestMissingProgramIsNamedWithItsRemedy(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root, so not in short mode")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tulle"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	err := Require(Spec{Programs: Beside(filepath.Join(dir, "tulle"))})
	if err == nil || !strings.Contains(err.Error(), "istiod-lite; build it with: make build") {
		t.Errorf("got %v", err)
	}
	if err := Require(Spec{Bare: true, Programs: Programs{Tulle: filepath.Join(dir, "tulle")}}); err != nil {
		t.Errorf("this machine can't run the demo: %v", err)
	}
}
