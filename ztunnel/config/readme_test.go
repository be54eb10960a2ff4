package config_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// composed are the variables whose names are put together in the code.
var composed = []string{
	"XDS_ADDRESS", "CA_ADDRESS", "XDS_ROOT_CA", "CA_ROOT_CA", "ALT_XDS_HOSTNAME", "ALT_CA_HOSTNAME", "XDS_HEADER_<name>", "CA_HEADER_<name>",
	"ISTIO_META_<name>", "ISTIO_METAJSON_<name>", "OTEL_EXPORTER_OTLP_<name>", "OTEL_EXPORTER_OTLP_TRACES_<name>",
}

func TestReadmeListsEveryVariable(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) > 3 {
			for _, name := range regexp.MustCompile("`([A-Z][A-Z0-9_]+(?:<name>)?)`").FindAllStringSubmatch(cells[1]+cells[2]+cells[3], -1) {
				listed[name[1]] = true
			}
		}
	}
	delete(listed, "SYSTEM") // a value
	read := variables(t)
	for _, name := range composed {
		read[name] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(read)), slices.Sorted(maps.Keys(listed))); diff != "" {
		t.Errorf("variables that the code reads (-) and ztunnel/README.md lists (+):\n%s", diff)
	}
}

// variables finds the names in the code of settings by their form.
func variables(t *testing.T) map[string]bool {
	t.Helper()
	own, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	common, err := filepath.Glob("../../mesh/settings/*.go")
	if err != nil || len(common) == 0 {
		t.Fatalf("the settings of all proxies: %v, %v", common, err)
	}
	found := map[string]bool{}
	name := regexp.MustCompile(`^[A-Z][A-Z0-9_]{3,}[A-Z0-9]$`)
	for _, path := range append(own, common...) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil && name.MatchString(text) {
					found[text] = true
				}
			}
			return true
		})
	}
	return found
}
