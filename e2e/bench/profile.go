package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profile takes CPU profiles of both ztunnels during a sample, if that is wished for. The channel gets one value at its end.
func (b *bench) profile(ctx context.Context, s *site, r row) <-chan error {
	done := make(chan error, 1)
	if b.profiles == "" || !s.ztunnel() {
		done <- nil
		return done
	}
	go func() {
		ended := make(chan error)
		for _, side := range s.sides() {
			go func() { ended <- b.profileOne(ctx, s, side, r) }()
		}
		done <- errors.Join(<-ended, <-ended)
	}()
	return done
}

func (b *bench) profileOne(ctx context.Context, s *site, side *side, r row) error {
	seconds := max(1, int(b.duration/time.Second))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+readyLimit)
	defer cancel()
	profile, err := get(ctx, side.nodeNetns, fmt.Sprintf("http://127.0.0.1:15000/debug/pprof/profile?seconds=%d", seconds))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	name := strings.NewReplacer(" ", "-", ",", "").Replace(r.name) + "_" + s.name + "_" + side.pod + ".pprof"
	return os.WriteFile(filepath.Join(b.profiles, name), profile, 0o644)
}
