package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlacesOfPodsSurviveARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "status", ".node1.netns")
	p := newPaths(file)
	if err := p.load(); err != nil {
		t.Fatal(err)
	}
	for uid, path := range map[string]string{"1": "/run/netns/a", "2": "/run/netns/b"} {
		if err := p.put(uid, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.forget("2"); err != nil {
		t.Fatal(err)
	}
	p = newPaths(file)
	if err := p.load(); err != nil {
		t.Fatal(err)
	}
	if p.get("1") != "/run/netns/a" || p.get("2") != "" {
		t.Errorf("remembered %v", p.byUID)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newPaths(file).load(); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a broken file: error is %v", err)
	}
}
