package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	root = "../.."
	base = "github.com/tulle-mesh/tulle/"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goPackage is what `go list -json` says of one package.
type goPackage struct {
	ImportPath, Name, Doc              string
	Imports, TestImports, XTestImports []string
	GoFiles                            []string
}

// path is the package's path within the project, such as mesh/h2.
func (p goPackage) path() string { return strings.TrimPrefix(p.ImportPath, base) }

// workspace lists every package of every module in go.work.
func workspace(t *testing.T) []goPackage {
	t.Helper()
	args := []string{"list", "-json"}
	for _, module := range modules(t) {
		args = append(args, "./"+module+"/...")
	}
	var packages []goPackage
	decoder := json.NewDecoder(bytes.NewReader(run(t, root, "go", args...)))
	for {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 20 {
		t.Fatalf("go list found %d packages, which can't be the whole workspace", len(packages))
	}
	return packages
}

// modules lists the folders named by go.work.
func modules(t *testing.T) []string {
	t.Helper()
	var work struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal(run(t, root, "go", "work", "edit", "-json"), &work); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, use := range work.Use {
		dirs = append(dirs, strings.TrimPrefix(use.DiskPath, "./"))
	}
	return dirs
}

// run returns what a command prints, and fails the test with its complaint if it fails.
func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes()
}

// golden compares got with the file testdata/name, or rewrites it under -update.
func golden(t *testing.T, name, got, remedy string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; %s", err, remedy)
	}
	if got != string(want) {
		t.Errorf("%s differs; %s\ngot:\n%s\nwant:\n%s", file, remedy, got, want)
	}
}
