package calm

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestMemoryIsLimitedByTheControlGroup(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(before)
	for text, want := range map[string]int64{"max\n": 0, "1073741820\n": 966367638, "": 0, "-1": 0, "0": 0, "many": 0} {
		file := filepath.Join(t.TempDir(), "memory.max")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := limitMemory(file); got != want || want > 0 && debug.SetMemoryLimit(-1) != want {
			t.Errorf("%q limits to %d, want %d", text, got, want)
		}
		debug.SetMemoryLimit(math.MaxInt64)
	}
	if got := limitMemory("/nonexistent"); got != 0 {
		t.Errorf("without a control group: %d", got)
	}
	debug.SetMemoryLimit(1 << 30)
	file := filepath.Join(t.TempDir(), "memory.max")
	if err := os.WriteFile(file, []byte("1000"), 0o600); err != nil {
		t.Fatal(err)
	}
	if limitMemory(file) != 0 || debug.SetMemoryLimit(-1) != 1<<30 {
		t.Error("GOMEMLIMIT doesn't come first")
	}
}
