package review

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// diary counts reviews and answers what it is told.
type diary struct {
	asked   atomic.Int32
	lock    sync.Mutex
	takes   time.Duration
	failure error
}

func (d *diary) set(takes time.Duration, failure error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.takes, d.failure = takes, failure
}

func (d *diary) review(_ context.Context, token string) (ca.Caller, error) {
	d.asked.Add(1)
	d.lock.Lock()
	takes, failure := d.takes, d.failure
	d.lock.Unlock()
	time.Sleep(takes)
	return ca.Caller{ServiceAccount: token}, failure
}

// inFakeTime runs a test with a cache; asked tells how many reviews there were since it was called last.
func inFakeTime(t *testing.T, test func(t *testing.T, d *diary, c *cache, asked func() int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		test(t, d, newCache(d.review), func() int { return int(d.asked.Swap(0)) })
	})
}

func TestAnAnswerCountsForAMoment(t *testing.T) {
	inFakeTime(t, func(t *testing.T, d *diary, c *cache, asked func() int) {
		get := func(token string) error {
			caller, err := c.get(t.Context(), token)
			if err == nil && caller.ServiceAccount != token {
				t.Errorf("of %q: %+v", token, caller)
			}
			return err
		}
		for range 3 {
			if err := get("a"); err != nil {
				t.Error(err)
			}
		}
		if n := asked(); n != 1 {
			t.Errorf("%d reviews, want 1", n)
		}
		if _ = get("b"); asked() != 1 {
			t.Error("another token isn't reviewed")
		}
		// The token is revoked: it still works, but not for longer than 10 s.
		d.set(0, errors.New("revoked"))
		time.Sleep(goodFor - time.Millisecond)
		if err := get("a"); err != nil || asked() != 0 {
			t.Errorf("just before its end: %v", err)
		}
		time.Sleep(time.Millisecond)
		if err := get("a"); err == nil || asked() != 1 {
			t.Errorf("a revoked token 10 s later: %v", err)
		}
		// A refusal is forgotten sooner: the pod may just have come.
		if err := get("a"); err == nil || asked() != 0 {
			t.Error("a refusal isn't remembered")
		}
		d.set(0, nil)
		time.Sleep(badFor)
		if err := get("a"); err != nil || asked() != 1 {
			t.Errorf("refused after a second: %v", err)
		}
	})
}

func TestThatTheAPIServerIsAwayIsNotRemembered(t *testing.T) {
	inFakeTime(t, func(t *testing.T, d *diary, c *cache, asked func() int) {
		d.set(0, fmt.Errorf("connection refused: %w", ca.ErrUnavailable))
		if _, err := c.get(t.Context(), "a"); !errors.Is(err, ca.ErrUnavailable) {
			t.Error(err)
		}
		d.set(0, nil)
		if _, err := c.get(t.Context(), "a"); err != nil || asked() != 2 {
			t.Error(err)
		}
	})
}

func TestThoseWhoAskAtOnceShareOneReview(t *testing.T) {
	inFakeTime(t, func(t *testing.T, d *diary, c *cache, asked func() int) {
		d.set(time.Second, nil)
		began := time.Now()
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if caller, err := c.get(t.Context(), "a"); err != nil || caller.ServiceAccount != "a" {
					t.Error(err)
				}
			})
		}
		// One who goes doesn't take the others' review with it.
		ctx, cancel := context.WithCancel(t.Context())
		group.Go(func() {
			if _, err := c.get(ctx, "a"); !errors.Is(err, context.Canceled) && err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		group.Wait()
		if n, took := asked(), time.Since(began); n != 1 || took != time.Second {
			t.Errorf("%d reviews in %s, want 1 in 1s", n, took)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	inFakeTime(t, func(t *testing.T, d *diary, c *cache, asked func() int) {
		for i := range 3 * maxAnswers {
			if _, err := c.get(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			if len(c.answers) > maxAnswers {
				t.Fatalf("%d answers", len(c.answers))
			}
		}
		// A review that goes on isn't forgotten.
		d.set(time.Minute, nil)
		var group sync.WaitGroup
		group.Go(func() { _, _ = c.get(t.Context(), "slow") })
		synctest.Wait()
		d.set(0, nil)
		for i := range 2 * maxAnswers {
			_, _ = c.get(t.Context(), strings.Repeat("x", i%1000)+fmt.Sprint(i))
		}
		asked()
		group.Go(func() { _, _ = c.get(t.Context(), "slow") })
		group.Wait()
		if n := asked(); n != 0 {
			t.Errorf("%d reviews of a token that was being reviewed", n)
		}
	})
}
