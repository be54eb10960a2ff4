package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/deploy/image"
)

// Version is the tag of images that are made here, unless somebody wants another one.
const Version = "dev"

const hub = "docker.io/tulle-mesh/"

// Image is the name, in a cluster of this machine, of an image of the project or of its tests.
func Image(name string) string { return hub + name + ":" + Version }

// TestImage makes the image that tests run, and every pod's first process, and returns its archive: see the program in app.
func TestImage(ctx context.Context) (archive string, err error) {
	return ProgramImage(ctx, "e2e/cluster/app")
}

// EchoProgram is what the tests of requests ask, and ask with.
const EchoProgram = "e2e/conformance/echo"

// TestImages makes all images that tests run beside those of the mesh, for a registry, and returns their archives.
func TestImages(ctx context.Context) (archives []string, err error) {
	app, err := TestImage(ctx)
	if err != nil {
		return nil, err
	}
	echo, err := ProgramImage(ctx, EchoProgram)
	return []string{app, echo}, err
}

// ProgramImage makes the image of a program of the project that needs nothing else, and returns its archive.
func ProgramImage(ctx context.Context, path string) (archive string, err error) {
	built, err := os.MkdirTemp("", "tulle-images-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(built)
	program := filepath.Join(built, filepath.Base(path))
	if err := build(ctx, program, Version, path); err != nil {
		return "", err
	}
	return ImageOf(ctx, program)
}

// ImageOf makes an image that is called as a program and has nothing else, and returns its archive.
func ImageOf(ctx context.Context, program string) (archive string, err error) {
	name := filepath.Base(program)
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(content)
	dir, err := once(ctx, "images", hex.EncodeToString(hash[:8]), func(string) {}, func(fresh string) error {
		return image.Write(filepath.Join(fresh, name+".tar"), image.Image{
			Name: Image(name), Entrypoint: []string{"/" + name},
			Files: map[string][]image.File{"linux/" + runtime.GOARCH: {{Path: "/" + name, Mode: 0o755, Content: content}}},
		})
	})
	return filepath.Join(dir, name+".tar"), err
}

// components are the programs that deploy/images makes images of.
var components = []string{"istiod-lite", "ztunnel", "waypoint", "cni-plugin", "cni-plugin/node-agent", "deploy/samples/bookinfo-like"}

// Images makes the images of the mesh's components as they are in the source, which say that they are of a version, and returns their archives.
func Images(ctx context.Context, version string, say func(string)) ([]string, error) {
	built, err := os.MkdirTemp("", "tulle-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(built)
	hash := sha256.New()
	fmt.Fprintln(hash, version)
	programs := filepath.Join(built, "linux-"+runtime.GOARCH)
	if err := os.Mkdir(programs, 0o755); err != nil {
		return nil, err
	}
	if err := build(ctx, programs, version, components...); err != nil {
		return nil, err
	}
	for _, path := range components {
		content, err := os.ReadFile(filepath.Join(programs, filepath.Base(path)))
		if err != nil {
			return nil, err
		}
		hash.Write(content)
	}
	dir, err := once(ctx, "images", hex.EncodeToString(hash.Sum(nil)[:8]), say, func(fresh string) error {
		say("making images of the mesh's components")
		return run(exec.CommandContext(ctx, "go", "run", module+"deploy/images", "-version", version, "-built", built, "-to", fresh, runtime.GOARCH))
	})
	if err != nil {
		return nil, fmt.Errorf("images of the mesh: %w", err)
	}
	return filepath.Glob(filepath.Join(dir, "*.tar"))
}

// Image is the name of an image of the project or of its tests, by which pods of this cluster run it.
func (c *Cluster) Image(name string) string {
	if c.given {
		return os.Getenv("HUB") + "/" + name + ":" + os.Getenv("TAG")
	}
	return Image(name)
}

// ownImage matches the names that images have in a cluster of this machine.
var ownImage = regexp.MustCompile(regexp.QuoteMeta(hub) + "([a-z-]+):" + regexp.QuoteMeta(Version))

// Filled puts the cluster's own names into objects: FIRST and SECOND stand for its nodes, and images have the names of this machine's clusters.
func (c *Cluster) Filled(text string) string {
	nodes := c.Nodes()
	text = strings.NewReplacer("FIRST", nodes[0], "SECOND", nodes[min(1, len(nodes)-1)]).Replace(text)
	return ownImage.ReplaceAllStringFunc(text, func(found string) string { return c.Image(ownImage.FindStringSubmatch(found)[1]) })
}

// Load gives archives of images to every node. One that was given gets its images from its registry.
func (c *Cluster) Load(ctx context.Context, archives ...string) error {
	if c.given {
		return nil
	}
	loaded := make(chan error)
	for node := range c.each() {
		go func() { loaded <- c.load(ctx, node, archives) }()
	}
	var errs []error
	for range c.each() {
		errs = append(errs, <-loaded)
	}
	return errors.Join(errs...)
}

func (c *Cluster) load(ctx context.Context, node int, archives []string) error {
	ctr := func(args ...string) error {
		cmd, err := c.OnNode(ctx, node, append([]string{"ctr", "--namespace=k8s.io"}, args...)...)
		if err != nil {
			return err
		}
		return run(cmd)
	}
	err := demo.Await(ctx, "containerd of "+c.spec.NodeName(node), func(context.Context) error { return ctr("version") })
	if err != nil {
		return err
	}
	for _, archive := range archives {
		archive, err := filepath.Abs(archive)
		if err != nil {
			return err
		}
		if err := ctr("images", "import", archive); err != nil {
			return fmt.Errorf("node %s: %w", c.spec.NodeName(node), err)
		}
	}
	return nil
}
