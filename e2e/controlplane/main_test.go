// Package controlplane tests the control plane's real program against a real API server and etcd, with scripted proxies.
package controlplane

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// program is istiod-lite's binary, built once for all tests.
var program string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run builds the programs, so that no test waits for that, and runs the tests.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tulle-controlplane-")
	if err != nil {
		return complain(err)
	}
	defer os.RemoveAll(dir)
	if _, err := cluster.Build(context.Background(), func(line string) { fmt.Println("  " + line) }); err != nil {
		return complain(err)
	}
	program = filepath.Join(dir, "istiod-lite")
	if err := build(program); err != nil {
		return complain(err)
	}
	servers.dir = filepath.Join(dir, "servers")
	if err := errors.Join(os.Mkdir(servers.dir, 0o755), flag.Set("test.parallel", strconv.Itoa(sideBySide))); err != nil {
		return complain(err)
	}
	code := m.Run()
	if err := servers.stop(); err != nil {
		return complain(err)
	}
	if left := processes(dir); len(left) > 0 {
		return complain(fmt.Errorf("left behind by the tests: %s", strings.Join(left, ", ")))
	}
	return code
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// build makes the program, with the race detector where there is a C compiler for it.
func build(to string) error {
	began := time.Now()
	args := []string{"build", "-o", to, "github.com/tulle-mesh/tulle/istiod-lite"}
	if _, err := exec.LookPath("gcc"); err == nil {
		args = append([]string{"build", "-race"}, args[1:]...)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return errors.Join(err, fmt.Errorf("go %s:\n%s", strings.Join(args, " "), out))
	}
	fmt.Printf("built istiod-lite (%.0f s)\n", time.Since(began).Seconds())
	return nil
}

// processes lists those of programs in a folder.
func processes(dir string) []string {
	var found []string
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, dir+"/") {
			found = append(found, filepath.Dir(link)+" "+target)
		}
	}
	return found
}
