package daemon

import "testing"

func TestALargeHeapHasLittleHeadroom(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 4 << 20: 400, 8 << 20: 200, 16 << 20: 100, 32 << 20: 50, 1 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("of %d bytes: %d %%, want %d %%", live, got, want)
		}
	}
}
