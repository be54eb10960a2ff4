package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

// A short soak, so that the long one can't rot: an epoch with an interruption, and a round after it.
func TestSoakInShort(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	err := run(ctx, options{
		duration: 18 * time.Second, round: 4 * time.Second, calm: 3 * time.Second, epoch: 2, dir: filepath.Join(t.TempDir(), "soak"), say: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Error(err)
	}
}
