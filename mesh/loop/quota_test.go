package loop

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

func TestOwnersLeaveAsMuchAsTheyHave(t *testing.T) {
	supply := NewSupply(120)
	var refusals atomic.Int64
	take := func(q *Quota) (n int) {
		for q.Take(1) == nil {
			n++
		}
		return n
	}
	refused := func(err error) {
		if !errors.As(err, new(*QuotaError)) {
			t.Error(err)
		}
		refusals.Add(1)
	}
	a, b, c := supply.Quota("pod a", refused), supply.Quota("pod b", refused), supply.Quota("pod c", refused)
	for i, step := range []struct {
		of   *Quota
		want int
	}{{a, 60}, {b, 30}, {c, 15}, {a, 0}} {
		if got := take(step.of); got != step.want {
			t.Errorf("step %d: %d taken, want %d", i, got, step.want)
		}
	}
	if err := c.Take(2); err == nil {
		t.Error("more than one has is taken beyond the share")
	}
	if refusals.Load() != 5 {
		t.Errorf("%d refusals are told, want 5", refusals.Load())
	}
	a.Give(60)
	if got := take(b); got != 22 { // 52 of 120, with 15 of c's, leave 53
		t.Errorf("%d more are taken after a's were given back, want 22", got)
	}
	var none *Quota
	if err := none.Take(1 << 20); err != nil {
		t.Error(err)
	}
	none.Give(1 << 20)
}

func TestWhatWasTakenTogetherIsGivenBack(t *testing.T) {
	supply := NewSupply(40)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			q := supply.Quota("pod", func(error) {})
			for range 1000 {
				if q.Take(3) == nil {
					q.Give(3)
				}
			}
			if used := q.used.Load(); used != 0 {
				t.Errorf("%d are still taken", used)
			}
		})
	}
	group.Wait()
	if free := supply.free.Load(); free != 40 {
		t.Errorf("%d of 40 are left", free)
	}
}
