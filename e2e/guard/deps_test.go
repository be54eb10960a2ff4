package guard

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// programs are the binaries of `make build` with the package that each is made of.
var programs = map[string]string{
	"ztunnel": "./ztunnel", "waypoint": "./waypoint", "istiod-lite": "./istiod-lite", "tulle-cni": "./cni-plugin", "tulle-cni-agent": "./cni-plugin/node-agent", "tulle": "./cli",
}

// A new library in a program is a decision that a reviewer should see.
func TestDependenciesOfEachProgram(t *testing.T) {
	for name, pkg := range programs {
		out := string(run(t, root, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", pkg))
		paths := strings.Fields(out)
		paths = slices.DeleteFunc(paths, func(path string) bool { return strings.HasPrefix(path, base) })
		slices.Sort(paths)
		golden(t, name+".deps.txt", strings.Join(slices.Compact(paths), "\n")+"\n", "if the change is meant, run make generate")
	}
}

// Templates call methods by name, so that the linker keeps every exported method of everything: a fifth of ztunnel's program, most
// of which is in memory.
func TestZtunnelIsBuiltWithoutTemplates(t *testing.T) {
	const tag = "grpcnotrace"
	for _, name := range strings.Fields(string(run(t, root, "go", "list", "-deps", "-tags="+tag, "./ztunnel"))) {
		if name == "text/template" || name == "html/template" {
			t.Errorf("ztunnel imports %s", name)
		}
	}
	for _, builder := range []string{"Makefile", "e2e/bench/build.go", "e2e/soak/soak.go"} {
		text, err := os.ReadFile(filepath.Join(root, builder))
		if err != nil || !strings.Contains(string(text), tag) {
			t.Errorf("%s doesn't build with -tags=%s (%v)", builder, tag, err)
		}
	}
}
