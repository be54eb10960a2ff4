package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/istiod-lite/config"
)

func TestAFolderThatIsMissingEndsTheStartBeforeAnythingIsMade(t *testing.T) {
	dir := t.TempDir()
	d := &Daemon{cfg: config.Config{Source: filepath.Join(dir, "objects"), Status: filepath.Join(dir, "status")}}
	if err := d.open(); err == nil || !strings.Contains(err.Error(), "--source files "+d.cfg.Source+": want a folder with the objects of the mesh; make it") {
		t.Error(err)
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
		t.Errorf("made %v, %v", made, err)
	}
}
