package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/deploy/image"
)

// Image is the name, in a cluster of this machine, of an image of the project or of its tests.
func Image(name string) string { return "localhost/tulle/" + name + ":dev" }

// ownImages makes the images of what every pod needs, pause, and of what tests run, app: see the program in app.
func (c *Cluster) ownImages(ctx context.Context) ([]string, error) {
	program := filepath.Join(c.spec.Dir, "app")
	if err := build(ctx, program, "e2e/cluster/app"); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var archives []string
	for _, name := range []string{"pause", "app"} {
		archive := filepath.Join(c.spec.Dir, name+".tar")
		err := image.Write(archive, image.Image{
			Name: Image(name), Entrypoint: []string{"/app", name},
			Files: map[string][]image.File{"linux/" + runtime.GOARCH: {{Path: "/app", Mode: 0o755, Content: content}}},
		})
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// Load gives archives of images to every node.
func (c *Cluster) Load(ctx context.Context, archives ...string) error {
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
