package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var one, two = decode.Kind{Kind: "One"}, decode.Kind{Kind: "Two"}

func node(name string) model.Change {
	object := &model.Node{Name: name}
	return model.Change{Key: object.Key(), Object: object}
}

func gone(name string) model.Change { return model.Change{Key: node(name).Key} }

// heard is what a reader of a feed was told.
type heard struct {
	lock  sync.Mutex
	calls [][]string
}

func (h *heard) apply(changes []model.Change) {
	var call []string
	for _, change := range changes {
		text := change.Key.Name.Name
		if change.Object == nil {
			text = "-" + text
		}
		call = append(call, text)
	}
	slices.Sort(call)
	h.lock.Lock()
	defer h.lock.Unlock()
	h.calls = append(h.calls, call)
}

func (h *heard) take() [][]string {
	synctest.Wait()
	h.lock.Lock()
	defer h.lock.Unlock()
	calls := h.calls
	h.calls = nil
	return calls
}

func expect(t *testing.T, h *heard, want ...[]string) {
	t.Helper()
	if got := h.take(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("want %v, have %v", want, got)
	}
}

func TestTheFirstCallHasEverythingOfEveryKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f, h := newFeed([]decode.Kind{one, two}), &heard{}
		go f.run(ctx, h.apply)
		f.add(node("a"))
		f.synced(one)
		f.add(node("b"))
		expect(t, h)
		f.note(one, errors.New("not any more"))
		f.note(two, errors.New("list two: not now"))
		if pending := f.pending(); !slices.Equal(pending, []string{"list two: not now"}) {
			t.Errorf("pending: %q", pending)
		}
		f.add(gone("a")) // went while the other kind was still listed
		f.synced(two)
		expect(t, h, []string{"-a", "b"})
		f.add(node("c"))
		expect(t, h, []string{"c"})
		cancel()
		synctest.Wait()
	})
}

// TestAKindThatIsNotFollowedAnyMoreSaysSinceWhenAndWhy, as when somebody takes the right to watch it away.
func TestAKindThatIsNotFollowedAnyMoreSaysSinceWhenAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, registry := newFeed([]decode.Kind{one, two}), prometheus.NewRegistry()
		f.register(registry, []decode.Kind{one, two})
		metric := func() string {
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			var values []string
			for _, m := range families[0].GetMetric() {
				values = append(values, fmt.Sprint(m.GetLabel()[0].GetValue(), "=", m.GetGauge().GetValue()))
			}
			return strings.Join(values, " ")
		}
		expect := func(metrics string, want ...string) {
			t.Helper()
			if have := f.lagging(); !slices.Equal(have, want) || metric() != metrics {
				t.Errorf("lagging %q, %s; want %q, %s", have, metric(), want, metrics)
			}
		}
		forbidden := fmt.Errorf("watch ones: %w", apierrors.NewForbidden(schema.GroupResource{Resource: "ones"}, "", errors.New("no right")))
		expect("One=0 Two=0")
		f.note(one, errors.New("connection refused"))
		expect("One=0 Two=0")
		time.Sleep(90 * time.Second)
		f.note(one, forbidden)
		expect("One=90 Two=0", `One for 1m30s: watch ones: ones is forbidden: no right; apply deploy/rbac/istiod-lite.yaml`)
		f.note(one, nil)
		expect("One=0 Two=0")
	})
}

func TestAnEmptyClusterIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f, h := newFeed([]decode.Kind{one}), &heard{}
		go f.run(ctx, h.apply)
		f.synced(one)
		f.notify()
		expect(t, h, []string{})
		cancel()
		synctest.Wait()
	})
}

// What was written to the one before, such as its status, has to be written to this one.
func TestWhatWentAndCameAgainDuringACallDidBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var calls [][]model.Change
		f, hold := newFeed(nil), make(chan struct{})
		go f.run(ctx, func(changes []model.Change) {
			calls = append(calls, changes)
			<-hold
		})
		f.add(node("first"))
		synctest.Wait()
		for _, change := range []model.Change{gone("a"), node("a"), node("a"), gone("b"), node("b"), gone("b")} {
			f.add(change)
		}
		hold <- struct{}{}
		synctest.Wait()
		of := func(name string) (objects []bool) {
			for _, change := range calls[1] {
				if change.Key.Name.Name == name {
					objects = append(objects, change.Object != nil)
				}
			}
			return objects
		}
		if a, b := of("a"), of("b"); !slices.Equal(a, []bool{false, true}) || !slices.Equal(b, []bool{false}) {
			t.Errorf("a: %v, b: %v", a, b)
		}
		close(hold)
		cancel()
		synctest.Wait()
	})
}

func TestWhatChangesDuringACallComesAtOnceAfterItAndOncePerObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f, h := newFeed(nil), &heard{}
		hold := make(chan struct{})
		go f.run(ctx, func(changes []model.Change) {
			h.apply(changes)
			<-hold
		})
		f.add(node("a"))
		expect(t, h, []string{"a"})
		f.add(node("b"))
		f.add(gone("b"))
		f.add(node("c"))
		f.add(node("c"))
		expect(t, h)
		time.Sleep(2 * time.Second)
		hold <- struct{}{}
		expect(t, h, []string{"-b", "c"})
		var metric dto.Metric
		if err := f.waited.Write(&metric); err != nil || metric.GetHistogram().GetSampleCount() != 2 || metric.GetHistogram().GetSampleSum() != 2 {
			t.Errorf("waited %v (%v), want twice, 2 s in all", metric.GetHistogram(), err)
		}
		close(hold)
		cancel()
		synctest.Wait()
	})
}
