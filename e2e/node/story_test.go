package node

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/tulle-mesh/tulle/cli/story"
)

// Each step of `tulle demo` is a test of its own, with the traffic of the frontend going on through all of them.
func TestStory(t *testing.T) {
	spec := story.Cluster(filepath.Join(t.TempDir(), "run"), programs)
	spec.Name = mine() + "story"
	cluster := start(t, spec)
	var told bytes.Buffer
	tale, err := story.Begin(t.Context(), cluster, &told)
	if err != nil {
		t.Fatal(err)
	}
	defer tale.End()
	for _, step := range story.Steps() {
		passed := t.Run(step.Title, func(t *testing.T) {
			told.Reset()
			err := step.Run(tale, t.Context())
			t.Logf("told:\n%s", &told)
			if err != nil {
				t.Error(err)
			}
		})
		if !passed {
			showLogs(t, cluster)
			t.FailNow() // The later steps start from where this one ends.
		}
	}
	if err := tale.Sum(t.Context()); err != nil {
		t.Error(err)
	}
}
