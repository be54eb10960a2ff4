package guard

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range workspace(t) {
		switch {
		case strings.Contains(p.path(), "/api/"): // The comment stands in the .proto file.
		case len(p.GoFiles) == 0:
			if len(p.TestImports)+len(p.XTestImports) == 0 {
				t.Errorf("%s has no Go files", p.path())
			}
		case p.Name == "main" && p.Doc == "":
			t.Errorf("%s: its main.go needs a comment that says what the program is for", p.path())
		case p.Name != "main" && !strings.HasPrefix(p.Doc, "Package "+p.Name+" "):
			t.Errorf("%s needs a doc comment that starts with %q", p.path(), "Package "+p.Name+" ")
		}
	}
}

// The Makefile's own help must name what the README and the contributors' page send people to.
func TestMakeHelpDocumentsEveryTarget(t *testing.T) {
	help := string(run(t, root, "make", "help"))
	for _, target := range []string{"build", "demo", "images", "charts", "test", "test-short", "lint", "generate", "fuzz", "bench", "bench-capture", "bench-go", "test-controlplane", "e2e", "cluster-up", "cluster-down", "cluster-shell", "bench-controlplane"} {
		if !strings.Contains(help, "make "+target+" ") {
			t.Errorf("make help doesn't mention %q:\n%s", target, help)
		}
	}
}

// Documents name files; a file that moves takes its mention along.
func TestDocumentsNameFilesThatExist(t *testing.T) {
	folders := modules(t)
	for _, document := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/install.md", "docs/enrol.md", "docs/policies.md", "docs/observability.md", "docs/upgrade.md", "docs/troubleshooting.md", "docs/uninstall.md", "docs/performance.md", "docs/behaviours.md", "docs/capture.md", "docs/waypoint.md"} {
		text, err := os.ReadFile(filepath.Join(root, document))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, word := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune(" \n\t`(),;:|[]*", r) }) {
			word = strings.TrimSuffix(word, ".")
			if !namesFile(folders, word) {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, word)); err != nil {
				t.Errorf("%s names %s: %v", document, word, err)
			}
		}
	}
}

// The pages of promises name a test for each; a test that is renamed takes its mention along.
func TestPromisesHaveTheirTests(t *testing.T) {
	there := map[string]bool{}
	for _, name := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(run(t, root, "grep", "-rhE", "--include=*_test.go", "^func (Test|Fuzz)", ".")), -1) {
		there[name[1]] = true
	}
	for _, page := range []string{"docs/behaviours.md", "docs/capture.md", "docs/waypoint.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(string(text), -1) {
			if !there[name] {
				t.Errorf("%s names %s, which doesn't exist", page, name)
			}
		}
	}
}

// namesFile tells that a word looks like a path in this project: it starts with one of its folders.
func namesFile(folders []string, word string) bool {
	for _, module := range folders {
		if strings.HasPrefix(word, module+"/") && !strings.ContainsAny(word, "<>{}…=\"") {
			return true
		}
	}
	return false
}
