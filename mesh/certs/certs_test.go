package certs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

// authority is a certificate authority that keeps a diary, takes its time and can be out of order.
type authority struct {
	*testca.CA

	mu        sync.Mutex
	latency   time.Duration
	outage    error
	calls     []call
	running   int
	most      int // that ran at a time
	cancelled []identity.Workload
}

type call struct {
	at time.Time
	id identity.Workload
}

func (a *authority) Sign(ctx context.Context, id identity.Workload, csrPEM string, ttl time.Duration) ([]string, error) {
	a.mu.Lock()
	a.calls = append(a.calls, call{time.Now(), id})
	a.running++
	a.most = max(a.most, a.running)
	latency, outage := a.latency, a.outage
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.running--
	}()
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-ctx.Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			a.cancelled = append(a.cancelled, id)
			return nil, ctx.Err()
		}
	}
	if outage != nil {
		return nil, outage
	}
	return a.CA.Sign(ctx, id, csrPEM, ttl)
}

func (a *authority) set(latency time.Duration, outage error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.latency, a.outage = latency, outage
}

func (a *authority) diary() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

var errOutage = errors.New("the authority is out of order")

const life = 24 * time.Hour

// fixture is a manager in fake time.
type fixture struct {
	*testing.T
	ca      *authority
	manager *certs.Manager
	stop    func() // Run has ended on return
}

// inFakeTime runs a test with a manager that is running, and checks that nothing of it is left.
func inFakeTime(t *testing.T, test func(f *fixture)) {
	t.Helper()
	inFakeTimeWith(t, life, test)
}

// inFakeTimeWith is inFakeTime with certificates of another life.
func inFakeTimeWith(t *testing.T, life time.Duration, test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{T: t, ca: &authority{CA: testca.New(t, "cluster.local")}}
		f.manager = certs.NewManager(f.ca, slog.New(slog.DiscardHandler), life)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.manager.Run(ctx) }()
		f.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		defer f.stop()
		test(f)
	})
}

func (f *fixture) get(id identity.Workload) *mtls.Credential {
	f.Helper()
	credential, err := f.manager.Get(f.Context(), id)
	if err != nil {
		f.Fatalf("Get at %v: %v", time.Now(), err)
	}
	if !time.Now().Before(credential.NotAfter()) {
		f.Fatalf("Get at %v gave a certificate that expired at %v", time.Now(), credential.NotAfter())
	}
	return credential
}

func (f *fixture) state(id identity.Workload) string {
	for _, status := range f.manager.Dump() {
		if status.Identity == id {
			return status.State
		}
	}
	return "forgotten"
}

func (f *fixture) accounts(n int) []identity.Workload {
	var list []identity.Workload
	for i := range n {
		list = append(list, f.ca.Identity("shop", fmt.Sprintf("account-%02d", i)))
	}
	return list
}

func TestFirstConnectionsShareOneRequest(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		f.ca.set(2*time.Second, nil)
		start := time.Now()
		var gets sync.WaitGroup
		for range 20 {
			gets.Go(func() {
				if _, err := f.manager.Get(f.Context(), id); err != nil {
					t.Errorf("Get: %v", err)
				}
			})
		}
		synctest.Wait()
		if state := f.state(id); state != "Initializing" {
			t.Errorf("state while waiting: %q", state)
		}
		gets.Wait()
		if waited := time.Since(start); waited != 2*time.Second {
			t.Errorf("waited %v, want 2s", waited)
		}
		if calls := len(f.ca.diary()); calls != 1 {
			t.Errorf("%d requests, want 1", calls)
		}
		if state := f.state(id); state != "Available" {
			t.Errorf("state: %q", state)
		}
	})
}

func TestCertificateIsRenewedAtHalfOfItsLife(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		first := f.get(id)
		time.Sleep(life * 45 / 100)
		synctest.Wait()
		if f.get(id) != first {
			t.Error("renewed before 45 % of its life")
		}
		time.Sleep(life * 5 / 100)
		synctest.Wait()
		second := f.get(id)
		if second == first {
			t.Error("not renewed at half of its life")
		}
		time.Sleep(10 * life)
		synctest.Wait()
		f.get(id)
		if calls := len(f.ca.diary()); calls < 21 || calls > 25 {
			t.Errorf("%d requests in 10.5 lives, want about 2 per life", calls)
		}
	})
}

func TestRenewalsOfManyIdentitiesAreSpread(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		ids := f.accounts(40)
		f.manager.Set(ids)
		synctest.Wait()
		start := time.Now()
		time.Sleep(life / 2)
		synctest.Wait()
		renewals := f.ca.diary()[len(ids):]
		if len(renewals) != len(ids) {
			t.Fatalf("%d renewals, want %d", len(renewals), len(ids))
		}
		spread := renewals[len(renewals)-1].at.Sub(renewals[0].at)
		if early := renewals[0].at.Sub(start); early < life*45/100 || spread < life/50 {
			t.Errorf("renewals from %v on within %v, want them spread over 45 to 50 %% of the life", early, spread)
		}
	})
}

func TestOutageShorterThanTheRestOfTheLifeIsNotNoticed(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		first := f.get(id)
		f.ca.set(0, errOutage)
		for range 23 {
			time.Sleep(time.Hour)
			if f.get(id) != first {
				t.Fatal("another certificate during the outage")
			}
			if state := f.state(id); state != "Available" {
				t.Errorf("state during the outage: %q", state)
			}
		}
		f.ca.set(0, nil)
		time.Sleep(150 * time.Second)
		synctest.Wait()
		if f.get(id) == first {
			t.Error("not renewed 150 s after the outage")
		}
	})
}

func TestOutageLongerThanTheLifeIsAnErrorUntilItEnds(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		f.get(id)
		f.ca.set(0, errOutage)
		time.Sleep(life + time.Second)
		start := time.Now()
		_, err := f.manager.Get(f.Context(), id)
		if !errors.Is(err, errOutage) || !strings.Contains(err.Error(), id.String()) {
			t.Errorf("Get: %v, want the authority's error with the identity", err)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("Get waited %v before its error", waited)
		}
		if state, want := f.state(id), "Unavailable: "+errOutage.Error(); state != want {
			t.Errorf("state %q, want %q", state, want)
		}
		f.ca.set(0, nil)
		time.Sleep(150 * time.Second)
		synctest.Wait()
		f.get(id)
		if state := f.state(id); state != "Available" {
			t.Errorf("state after the outage: %q", state)
		}
	})
}

func TestWaitersLearnOfAFailureAtOnce(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		f.ca.set(time.Second, errOutage)
		start := time.Now()
		var gets sync.WaitGroup
		for range 5 {
			gets.Go(func() {
				if _, err := f.manager.Get(f.Context(), id); !errors.Is(err, errOutage) {
					t.Errorf("Get: %v, want the authority's error", err)
				}
			})
		}
		gets.Wait()
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("waited %v, want as long as the authority took", waited)
		}
		if _, err := f.manager.Get(f.Context(), id); !errors.Is(err, errOutage) || time.Since(start) != time.Second {
			t.Errorf("the next Get: %v after %v, want the same error at once", err, time.Since(start))
		}
		if calls := len(f.ca.diary()); calls != 1 {
			t.Errorf("%d requests, want 1: connections must not add to the load", calls)
		}
	})
}

func TestCertificateThatEndsBeforeItsRenewalIsReplacedOnUse(t *testing.T) {
	inFakeTimeWith(t, 950*time.Millisecond, func(f *fixture) {
		// A certificate ends with a whole second: this one lives for 0.4 s, and renewal is due after 0.5 s.
		time.Sleep(600 * time.Millisecond)
		id := f.ca.Identity("shop", "cart")
		first := f.get(id)
		time.Sleep(460 * time.Millisecond)
		start := time.Now()
		if second := f.get(id); second == first || time.Since(start) != 0 {
			t.Errorf("replaced: %v, after %v", second != first, time.Since(start))
		}
	})
}

func TestRetriesBackOff(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		f.ca.set(0, errOutage)
		f.manager.Set([]identity.Workload{f.ca.Identity("shop", "cart")})
		time.Sleep(time.Hour)
		synctest.Wait()
		calls := f.ca.diary()
		var gaps []time.Duration
		for i := 1; i < len(calls); i++ {
			gaps = append(gaps, calls[i].at.Sub(calls[i-1].at))
		}
		if len(gaps) < 20 || gaps[0] < 500*time.Millisecond || gaps[0] > time.Second {
			t.Fatalf("gaps %v, want the first to be 0.5 to 1 s", gaps)
		}
		base := gaps[0]
		for i, gap := range gaps[1:] {
			base = min(2*base, 150*time.Second)
			if low, high := base*8/10, min(base*12/10, 150*time.Second); gap < low-1 || gap > high+1 {
				t.Errorf("gap %d is %v, want %v to %v", i+2, gap, low, high)
			}
		}
	})
}

func TestBackOffStartsAnewAfterASuccess(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		f.ca.set(0, errOutage)
		f.manager.Set([]identity.Workload{id})
		time.Sleep(time.Hour)
		f.ca.set(0, nil)
		time.Sleep(150 * time.Second)
		synctest.Wait()
		f.get(id)
		before := len(f.ca.diary())
		f.ca.set(0, errOutage)
		time.Sleep(life / 2)
		synctest.Wait()
		calls := f.ca.diary()[before:]
		if gap := calls[1].at.Sub(calls[0].at); gap > time.Second {
			t.Errorf("first retry after %v, want 0.5 to 1 s", gap)
		}
	})
}

func TestAuthorityThatNeverAnswersIsGivenUp(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		f.ca.set(365*24*time.Hour, nil)
		start := time.Now()
		_, err := f.manager.Get(f.Context(), f.ca.Identity("shop", "cart"))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("Get: %v after %v, want a time-out after 10s", err, time.Since(start))
		}
	})
}

func TestGetEndsWithItsContext(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		f.ca.set(3*time.Second, nil)
		ctx, cancel := context.WithTimeout(f.Context(), time.Second)
		defer cancel()
		if _, err := f.manager.Get(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get: %v, want a time-out", err)
		}
		f.get(id)
		if calls := len(f.ca.diary()); calls != 1 {
			t.Errorf("%d requests, want 1: who gives up must not cancel it for others", calls)
		}
	})
}

func TestNoIdentityIsAnError(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		if _, err := f.manager.Get(f.Context(), identity.Workload{}); err == nil {
			t.Error("Get of the zero identity: want an error")
		}
		f.manager.Set([]identity.Workload{{}})
		if list := f.manager.Dump(); len(list) != 0 {
			t.Errorf("Dump = %v, want nothing", list)
		}
	})
}

func TestCertificateThatExpiredOnArrivalIsAnError(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		m := certs.NewManager(f.ca, slog.New(slog.DiscardHandler), -time.Second)
		ctx, cancel := context.WithCancel(f.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		if _, err := m.Get(ctx, f.ca.Identity("shop", "cart")); err == nil || !strings.Contains(err.Error(), "compare the clocks") {
			t.Errorf("Get: %v, want an error about the clocks", err)
		}
		cancel()
		running.Wait()
	})
}
