package loop

import (
	"errors"
	"sync"
	"testing"
)

func TestQuotaIsNeverExceeded(t *testing.T) {
	var mu sync.Mutex
	refusals := 0
	q := NewQuota("pod a", 10, func(error) { mu.Lock(); refusals++; mu.Unlock() })
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				if err := q.Take(3); err == nil {
					q.Give(3)
				} else if !errors.As(err, new(*QuotaError)) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for _, step := range []struct {
		n  int
		ok bool
	}{{9, true}, {2, false}, {1, true}, {1, false}} {
		if err := q.Take(step.n); (err == nil) != step.ok {
			t.Errorf("Take(%d) with all but the first of the steps done = %v", step.n, err)
		}
	}
	if q.used.Load() != 10 || refusals < 2 {
		t.Errorf("%d are taken, %d refusals were told", q.used.Load(), refusals)
	}
	var none *Quota
	if err := none.Take(1 << 20); err != nil {
		t.Error(err)
	}
	none.Give(1 << 20)
}
