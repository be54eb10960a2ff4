package main

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestWhatMakeImagesMakes is about the machine's own architecture: the others only take time.
func TestWhatMakeImagesMakes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs")
	}
	dir := t.TempDir()
	if out, err := exec.Command("make", "-C", "../..", "images", "IMAGES="+dir, "ARCHITECTURES="+runtime.GOARCH, "VERSION=v1.2.3").CombinedOutput(); err != nil {
		t.Fatalf("make images: %v\n%s", err, out)
	}
	for name, want := range map[string]struct {
		size  int64 // of compressed layers, in bytes at most
		user  string
		files []string
	}{
		"ztunnel":       {15 << 20, "0:1337", []string{"usr/local/bin/ztunnel"}},
		"waypoint":      {15 << 20, "1337:1337", []string{"usr/local/bin/waypoint"}},
		"istiod-lite":   {30 << 20, "1337:1337", []string{"usr/local/bin/istiod-lite"}},
		"cni-plugin":    {25 << 20, "0:0", []string{"usr/local/bin/tulle-cni", "usr/local/bin/tulle-cni-agent"}},
		"bookinfo-like": {10 << 20, "1337:1337", []string{"usr/local/bin/bookinfo-like"}},
	} {
		found, err := tarball.ImageFromPath(filepath.Join(dir, name+".tar"), nil)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := found.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%s has %d layers, %v", name, len(layers), err)
		}
		if size, err := layers[0].Size(); err != nil || size > want.size || size < 1<<20 {
			t.Errorf("%s has %.1f MB, want %d MB at most (%v)", name, float64(size)/(1<<20), want.size>>20, err)
		}
		config, err := found.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Config.User != want.user || config.Config.Labels["org.opencontainers.image.version"] != "v1.2.3" {
			t.Errorf("%s is %+v, want user %s and version v1.2.3", name, config.Config, want.user)
		}
		if files := extract(t, mutate.Extract(found), dir); !slices.Equal(files, want.files) {
			t.Errorf("%s has %v, want %v", name, files, want.files)
		}
		if list, err := os.ReadFile(filepath.Join(dir, name+".spdx.json")); err != nil || !strings.Contains(string(list), "pkg:golang/golang.org/x/sys@v") {
			t.Errorf("%s: its list doesn't name golang.org/x/sys (%v)", name, err)
		}
	}
	for _, command := range []string{"ztunnel version", "waypoint version", "istiod-lite --help", "tulle-cni-agent --version", "tulle-cni"} {
		words := strings.Fields(command)
		path := filepath.Join(dir, "usr/local/bin", words[0])
		alone(t, path)
		if out, err := exec.Command(path, words[1:]...).CombinedOutput(); err != nil || words[0] != "istiod-lite" && !strings.Contains(string(out), "v1.2.3") {
			t.Errorf("%s: %v, said %s", command, err, out)
		}
	}
}

// alone fails the test if a program needs others to run.
func alone(t *testing.T, path string) {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Errorf("%s isn't static", path)
	}
}

// extract unpacks the files of an image and returns their names.
func extract(t *testing.T, archive io.ReadCloser, dir string) (names []string) {
	t.Helper()
	defer archive.Close()
	reader := tar.NewReader(archive)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(reader)
		at := filepath.Join(dir, header.Name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, content, 0o755)); err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
}

func TestAProgramThatIsMissingIsNamed(t *testing.T) {
	err := write(t.TempDir(), t.TempDir(), "v1", []string{"amd64"})
	if err == nil || !strings.Contains(err.Error(), "linux-amd64/istiod-lite") {
		t.Errorf("error %v", err)
	}
}
