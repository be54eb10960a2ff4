package demo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// program is the built tulle, whose parts run in the pods.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tulle-demo-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "tulle")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/tulle-mesh/tulle/cli").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build tulle: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
