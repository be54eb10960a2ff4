package keep

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

func TestSeveralThatStartAtOnceShareOneRoot(t *testing.T) {
	state := filepath.Join(t.TempDir(), "ca")
	authorities := make([]*ca.Authority, 8)
	var group sync.WaitGroup
	for i := range authorities {
		group.Go(func() {
			var err error
			if authorities[i], err = OpenFolder(state, "cluster.local"); err != nil {
				t.Error(err)
				return
			}
			if err := Publish(state, ca.NewLive(authorities[i])); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	published, err := os.ReadFile(filepath.Join(state, "root-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range authorities {
		if string(a.RootsPEM()) != string(published) {
			t.Error("two roots")
		}
	}
	again, err := OpenFolder(state, "cluster.local")
	if err != nil || string(again.RootsPEM()) != string(published) {
		t.Errorf("another root after a restart: %v", err)
	}
	info, err := os.Stat(filepath.Join(state, "authority", "ca-key.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(state, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if life := time.Until(authorities[0].Chain[0].NotAfter); life < 3649*24*time.Hour {
		t.Errorf("root lives %s", life)
	}
}

func TestADamagedAuthorityIsNotReplaced(t *testing.T) {
	state := t.TempDir()
	if _, err := OpenFolder(state, "cluster.local"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(state, "authority", "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFolder(state, "cluster.local"); err == nil || !strings.Contains(err.Error(), "ca-key.pem") {
		t.Error(err)
	}
}
