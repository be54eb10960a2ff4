package certs_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

func TestCertificatesOfNewPodsAreFetchedAheadOfTheirUse(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		ids := f.accounts(3)
		f.manager.Set(append(ids, ids[0]))
		synctest.Wait()
		if calls := len(f.ca.diary()); calls != 3 {
			t.Errorf("%d requests, want 3", calls)
		}
		f.ca.set(time.Hour, nil)
		for _, id := range ids {
			f.get(id) // at once, or time would go on and the fixture's context be the only end
		}
		if calls := len(f.ca.diary()); calls != 3 {
			t.Errorf("%d requests after Get, want 3", calls)
		}
		f.manager.Set(ids)
		synctest.Wait()
		if calls := len(f.ca.diary()); calls != 3 {
			t.Errorf("%d requests after Set with the same identities, want 3", calls)
		}
	})
}

func TestCertificatesOfGonePodsAreForgotten(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		ids := f.accounts(3)
		f.manager.Set(ids)
		synctest.Wait()
		f.manager.Set(ids[:1])
		if list := f.manager.Dump(); len(list) != 1 || list[0].Identity != ids[0] || list[0].Credential == nil {
			t.Errorf("Dump = %v, want only %v", list, ids[0])
		}
		time.Sleep(life)
		synctest.Wait()
		for _, call := range f.ca.diary()[3:] {
			if call.id != ids[0] {
				t.Errorf("%v was renewed after it was forgotten", call.id)
			}
		}
	})
}

func TestForgettingCancelsTheRequest(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		ids := f.accounts(20) // eight in flight, the others in the queue
		f.ca.set(5*time.Second, nil)
		f.manager.Set(ids)
		time.Sleep(time.Second)
		f.manager.Set(nil)
		synctest.Wait()
		f.ca.mu.Lock()
		cancelled := slices.Clone(f.ca.cancelled)
		f.ca.mu.Unlock()
		if len(cancelled) != 8 {
			t.Errorf("%d requests cancelled, want 8", len(cancelled))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if calls := len(f.ca.diary()); calls != 8 {
			t.Errorf("%d requests, want the 8 that were in flight", calls)
		}
		if list := f.manager.Dump(); len(list) != 0 {
			t.Errorf("Dump = %v, want nothing", list)
		}
	})
}

func TestIdentityThatAConnectionWaitsForIsForgottenAfterwards(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		f.ca.set(2*time.Second, nil)
		var get sync.WaitGroup
		get.Go(func() {
			if _, err := f.manager.Get(f.Context(), id); err != nil {
				t.Errorf("Get: %v", err)
			}
		})
		time.Sleep(time.Second)
		f.manager.Set(nil)
		get.Wait()
		synctest.Wait()
		if state := f.state(id); state != "forgotten" {
			t.Errorf("state after the last wait: %q", state)
		}
	})
}

func TestPodThatComesBackWhileItsIdentityIsWaitedForIsKept(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		id := f.ca.Identity("shop", "cart")
		f.ca.set(2*time.Second, nil)
		var get sync.WaitGroup
		get.Go(func() {
			if _, err := f.manager.Get(f.Context(), id); err != nil {
				t.Errorf("Get: %v", err)
			}
		})
		time.Sleep(time.Second)
		f.manager.Set(nil)
		f.manager.Set([]identity.Workload{id})
		get.Wait()
		synctest.Wait()
		if state := f.state(id); state != "Available" {
			t.Errorf("state: %q", state)
		}
	})
}

func TestEightRequestsAtATime(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		f.ca.set(time.Second, nil)
		f.manager.Set(f.accounts(40))
		start := time.Now()
		time.Sleep(5*time.Second + time.Millisecond)
		synctest.Wait()
		if f.ca.most != 8 {
			t.Errorf("%d requests at a time, want 8", f.ca.most)
		}
		calls := f.ca.diary()
		if last := calls[len(calls)-1].at.Sub(start); len(calls) != 40 || last != 4*time.Second {
			t.Errorf("%d requests, the last after %v; want 40, 4s", len(calls), last)
		}
	})
}

func TestConnectionsComeBeforeNewPodsAndThoseBeforeRenewals(t *testing.T) {
	inFakeTimeWith(t, 100*time.Second, func(f *fixture) {
		old := f.accounts(40)
		f.manager.Set(old)
		synctest.Wait()
		// Within 5 s all are due for renewal, while the authority needs 9 s for each: 32 have to queue.
		f.ca.set(9*time.Second, nil)
		time.Sleep(51 * time.Second)
		synctest.Wait()
		before := len(f.ca.diary())
		pods := []identity.Workload{f.ca.Identity("pods", "a"), f.ca.Identity("pods", "b"), f.ca.Identity("pods", "c")}
		f.manager.Set(append(slices.Clone(old), pods...))
		urgent := f.ca.Identity("urgent", "a")
		var gets sync.WaitGroup
		for _, id := range []identity.Workload{urgent, pods[2]} {
			gets.Go(func() {
				if _, err := f.manager.Get(f.Context(), id); err != nil {
					t.Errorf("Get %v: %v", id, err)
				}
			})
		}
		gets.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		var order []string
		for _, call := range f.ca.diary()[before:] {
			order = append(order, call.id.Namespace()+"/"+call.id.ServiceAccount())
		}
		// Requests that begin at the same moment may come to the authority in any order.
		slices.Sort(order[:2])
		slices.Sort(order[2:4])
		if got := strings.Join(order[:4], " "); got != "pods/c urgent/a pods/a pods/b" {
			t.Errorf("order %q, want those that are waited for first, then the other new ones", order)
		}
	})
}

func TestAfterTheEndValidCertificatesServeOn(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		have, wait := f.ca.Identity("shop", "have"), f.ca.Identity("shop", "wait")
		credential := f.get(have)
		f.ca.set(5*time.Second, nil)
		var get sync.WaitGroup
		get.Go(func() {
			if _, err := f.manager.Get(context.Background(), wait); err == nil || !strings.Contains(err.Error(), "shutting down") {
				t.Errorf("Get that waits: %v, want an error about the end", err)
			}
		})
		time.Sleep(time.Second)
		f.stop()
		get.Wait()
		if f.get(have) != credential {
			t.Error("another certificate after the end")
		}
		if _, err := f.manager.Get(context.Background(), f.ca.Identity("shop", "new")); err == nil {
			t.Error("Get of a new identity after the end: want an error")
		}
	})
}

func TestManyConnectionsAndChangesAtOnce(t *testing.T) {
	inFakeTime(t, func(f *fixture) {
		ids := f.accounts(12)
		f.ca.set(100*time.Millisecond, nil)
		var work sync.WaitGroup
		for n := range 8 {
			random := rand.New(rand.NewPCG(uint64(n), 1))
			work.Go(func() {
				for range 100 {
					time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
					switch random.IntN(10) {
					case 0:
						f.manager.Set(ids[random.IntN(len(ids)):])
					case 1:
						f.manager.Dump()
					case 2:
						f.ca.set(100*time.Millisecond, errOutage)
					case 3:
						f.ca.set(time.Duration(random.IntN(300))*time.Millisecond, nil)
					default:
						ctx, cancel := context.WithTimeout(f.Context(), time.Duration(random.IntN(500))*time.Millisecond)
						id := ids[random.IntN(len(ids))]
						credential, err := f.manager.Get(ctx, id)
						if (credential == nil) == (err == nil) || credential != nil && credential.Identity != id {
							t.Errorf("Get(%v) = %v, %v", id, credential, err)
						}
						cancel()
					}
				}
			})
		}
		work.Wait()
		f.ca.set(0, nil)
		f.manager.Set(ids)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		for _, status := range f.manager.Dump() {
			if status.State != "Available" {
				t.Errorf("%v: %s", status.Identity, status.State)
			}
		}
		if f.ca.most > 8 {
			t.Errorf("%d requests at a time", f.ca.most)
		}
	})
}
