package sbom

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"
)

// self is a program of Go's linker: this test.
func self(t *testing.T) []byte {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestTheListNamesProgramsAndWhatTheyAreMadeOf(t *testing.T) {
	programs := []Program{{"/bin/test", "linux/amd64", self(t)}, {"/bin/test", "linux/arm64", self(t)}}
	out, err := Of("registry.example.com/test:v1", "v1", programs)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(out, &d); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, part := range d.Parts {
		count[part.Name]++
		for _, ref := range part.Refs {
			count[ref.Locator]++
		}
		if part.Purpose == "APPLICATION" && (len(part.Sums) != 1 || len(part.Sums[0].Value) != 64) {
			t.Errorf("%s has the hashes %v", part.Name, part.Sums)
		}
	}
	for name, want := range map[string]int{
		"registry.example.com/test:v1": 1, "/bin/test": 2,
		"pkg:golang/stdlib@" + strings.TrimPrefix(runtime.Version(), "go"): 1,
		"pkg:golang/github.com/tulle-mesh/tulle/deploy@v1":                 1,
	} {
		if count[name] != want {
			t.Errorf("%s is listed %d times, want %d:\n%s", name, count[name], want, out)
		}
	}
	known := map[string]bool{d.ID: true}
	for _, part := range d.Parts {
		known[part.ID] = true
	}
	for _, r := range d.Relations {
		if !known[r.From] || !known[r.To] {
			t.Errorf("%+v is about something that isn't listed", r)
		}
	}
	again, err := Of("registry.example.com/test:v1", "v1", programs)
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("it isn't the same a second time (%v)", err)
	}
}

func TestWhatIsNoProgramOfGosIsRefused(t *testing.T) {
	_, err := Of("registry.example.com/test:v1", "v1", []Program{{"/bin/sh", "linux/amd64", []byte("#!/bin/sh")}})
	if err == nil || !strings.Contains(err.Error(), "/bin/sh for linux/amd64") {
		t.Errorf("error %v", err)
	}
}
