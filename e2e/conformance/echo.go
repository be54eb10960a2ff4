package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/tulle-mesh/tulle/deploy/image"
)

// wantedImage matches what the suite's pods run.
var wantedImage = regexp.MustCompile(`(?m)^\s*image:\s*(\S+)$`)

// echoImage makes an image of our echo by the name that the suite's documents ask for, and returns its archive.
func echoImage(ctx context.Context, s *suite) (archive string, err error) {
	documents := filepath.Join(s.source, "mesh", "manifests.yaml")
	text, err := os.ReadFile(documents)
	if err != nil {
		return "", err
	}
	wanted := map[string]bool{}
	var name string
	for _, found := range wantedImage.FindAllSubmatch(text, -1) {
		name = string(found[1])
		wanted[name] = true
	}
	if len(wanted) != 1 {
		return "", fmt.Errorf("%s asks for %d images, want one, the echo's", documents, len(wanted))
	}
	program := filepath.Join(s.dir, "echo")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", program, "github.com/tulle-mesh/tulle/e2e/conformance/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build echo: %w\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	archive = filepath.Join(s.dir, "echo.tar")
	return archive, image.Write(archive, image.Image{
		Name: name, User: "1338:1338", Entrypoint: []string{"/usr/local/bin/server"},
		Files: map[string][]image.File{"linux/" + runtime.GOARCH: {
			{Path: "/usr/local/bin/server", Mode: 0o755, Content: content},
			{Path: "/usr/local/bin/client", Mode: fs.ModeSymlink | 0o777, Content: []byte("server")},
		}},
	})
}
