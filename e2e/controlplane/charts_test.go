package controlplane

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What charts install, with their usual values and with all others, is what their golden files say. Kinds of the Prometheus
// Operator aren't defined here.
func TestTheAPIServerTakesWhatChartsInstall(t *testing.T) {
	w := newWorld(t)
	files, err := filepath.Glob("../../deploy/charts/testdata/*/*.golden.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	foreign := regexp.MustCompile(`(?m)^apiVersion: monitoring\.coreos\.com/`)
	for _, file := range append(files, "../../deploy/samples/bookinfo-like/kustomize/base/bookinfo.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(text), "\n---\n") {
			if foreign.MatchString(document) {
				continue
			}
			if err := w.Apply(t.Context(), document); err != nil {
				t.Errorf("%s: %v\n%s", file, err, document)
			}
		}
	}
}
