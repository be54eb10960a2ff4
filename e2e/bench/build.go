package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// What is in the run folder besides a folder for each column.
const (
	binDir    = "bin"
	ownerFile = "owner"
)

// build makes the programs and a site for each column, and proves of each ztunnel that it encrypts.
func (b *bench) build(ctx context.Context) (err error) {
	if err := cleanUp(ctx, b.dir); err != nil {
		return err
	}
	if b.built, err = buildPrograms(ctx, filepath.Join(b.dir, binDir)); err != nil {
		return err
	}
	for _, c := range b.columns {
		s := &site{column: c, options: b.options, built: b.built}
		b.sites = append(b.sites, s)
		say("building the nodes of %s", c.name)
		if err := s.build(ctx); err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
		if err := s.begin(ctx); err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	return nil
}

// own makes the run folder ours until the file is closed: two benchmarks at a time would measure each other.
func own(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, ownerFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another benchmark is running in %s: wait for its end (%w)", dir, err)
	}
	return file, nil
}

// cleanUp removes what a run that was killed has left.
func cleanUp(ctx context.Context, dir string) error {
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range left {
		if !entry.IsDir() {
			continue
		}
		if _, err := demo.CleanUp(ctx, filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("remove %s, which an earlier benchmark left: %w", filepath.Join(dir, entry.Name()), err)
		}
	}
	return nil
}

// begin starts the proxies.
func (s *site) begin(ctx context.Context) error {
	if s.ztunnel() {
		return s.prove(ctx)
	}
	return s.ready()
}

// buildPrograms builds what is measured as it would be released.
func buildPrograms(ctx context.Context, dir string) (binaries, error) {
	self, err := os.Executable()
	if err != nil {
		return binaries{}, err
	}
	built := binaries{self: self, ztunnel: filepath.Join(dir, "ztunnel"), istiod: filepath.Join(dir, "istiod-lite")}
	for path, from := range map[string]string{built.ztunnel: "ztunnel", built.istiod: "istiod-lite"} {
		say("building %s", from)
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", path, "github.com/tulle-mesh/tulle/"+from)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return built, fmt.Errorf("build %s: %w\n%s", from, err, out)
		}
	}
	return built, nil
}
