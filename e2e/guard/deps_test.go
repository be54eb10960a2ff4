package guard

import (
	"slices"
	"strings"
	"testing"
)

// programs are the binaries of `make build` with the package that each is made of.
var programs = map[string]string{
	"ztunnel": "./ztunnel", "istiod-lite": "./istiod-lite", "tulle-cni": "./cni-plugin", "tulle-cni-agent": "./cni-plugin/node-agent", "tulle": "./cli",
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
