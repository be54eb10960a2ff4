package guard

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFormattingIsGofmts(t *testing.T) {
	args := append([]string{"-l"}, modules(t)...)
	if out := run(t, root, "gofmt", args...); len(out) > 0 {
		t.Errorf("not formatted; run gofmt -w on:\n%s", out)
	}
}

func TestVetAndStaticcheckAreClean(t *testing.T) {
	var packages []string
	for _, module := range modules(t) {
		packages = append(packages, "./"+module+"/...")
	}
	for _, tool := range [][]string{{"vet"}, {"tool", "staticcheck"}} {
		cmd := exec.Command("go", append(tool, packages...)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("go %s: %v\n%s", strings.Join(tool, " "), err, out)
		}
	}
}

// Generated code is what its sources say: .proto files give the same .pb.go files again.
func TestGeneratedFilesAreUpToDate(t *testing.T) {
	fresh := t.TempDir()
	run(t, root, "go", "run", "./e2e/generate", fresh)
	files := 0
	err := filepath.WalkDir(filepath.Join(root, "mesh/api"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".pb.go") {
			return err
		}
		files++
		relative, _ := filepath.Rel(root, path)
		want, err := os.ReadFile(filepath.Join(fresh, relative))
		if err != nil {
			t.Errorf("%s has no source any more: %v", relative, err)
			return nil
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is out of date; run make generate (%v)", relative, err)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d generated files compared: %v", files, err)
	}
}

// Each module builds alone, so that what one component needs never enters another's go.sum.
func TestModulesAreTidy(t *testing.T) {
	for _, module := range modules(t) {
		cmd := exec.Command("go", "mod", "tidy", "-diff")
		cmd.Dir = filepath.Join(root, module)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v; run GOWORK=off go mod tidy there\n%s", module, err, out)
		}
	}
}
