package calm

import "testing"

func TestMemoryIsReturnedOnceABurstIsOver(t *testing.T) {
	c := calm{bytes: 2 << 20}
	total := uint64(0)
	for i, look := range []struct {
		what      string
		allocated uint64 // since the look before
		want      bool
	}{
		{"the start", 20 << 20, false},
		{"calm", 1 << 20, false},
		{"calm for long enough", 1 << 20, true},
		{"calm", 1 << 20, false},
		{"a burst", 100 << 20, false},
		{"which goes on", 3 << 20, false},
		{"and pauses", 0, false},
		{"and goes on", 3 << 20, false},
		{"and is over", 1 << 20, false},
		{"for long enough", 1 << 20, true},
		{"calm again", 1 << 20, false},
		{"a little", 10 << 20, false},
		{"calm", 0, false},
		{"isn't worth it", 0, false},
		{"before it sums up", 5 << 20, false},
		{"calm", 0, false},
		{"to a burst", 0, true},
	} {
		total += look.allocated
		if got := c.over(total); got != look.want {
			t.Errorf("%d, %s: memory is returned: %v, want %v", i, look.what, got, look.want)
		}
	}
}
