package capture_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func add(t *testing.T, r *capture.Registry, facts capture.Facts, check func() error) *capture.Entry {
	t.Helper()
	e, err := r.Add(facts, check)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// reasonOf returns why the entry was cut, or nil. It stands in for the connection from then on.
func reasonOf(e *capture.Entry) (cut error) {
	e.OnCut(func(reason error) { cut = reason })
	return cut
}

func TestCutReachesAConnectionWheneverItBegins(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	t.Run("before there is anything to cut", func(t *testing.T) {
		e := add(t, capture.NewRegistry(nil), capture.Facts{}, nil)
		e.Cut(first)
		e.Cut(second)
		var got error
		e.OnCut(func(reason error) { got = reason })
		if got != first || reasonOf(e) != first {
			t.Errorf("cut by %v, reason %v", got, reasonOf(e))
		}
	})
	t.Run("while it runs", func(t *testing.T) {
		e := add(t, capture.NewRegistry(nil), capture.Facts{}, nil)
		var got []error
		e.OnCut(func(error) { t.Error("the attempt is over, the relay must be cut") })
		e.OnCut(func(reason error) { got = append(got, reason) })
		e.Cut(first)
		e.Cut(second)
		if len(got) != 1 || got[0] != first {
			t.Errorf("cut by %v, want once by the first reason", got)
		}
	})
}

func TestRecheckCutsOnlyWhatMayNotGoOn(t *testing.T) {
	r := capture.NewRegistry(nil)
	denied := errors.New("denied")
	var verdict error
	fickle := add(t, r, capture.Facts{}, func() error { return verdict })
	good := add(t, r, capture.Facts{}, func() error { return nil })
	unasked := add(t, r, capture.Facts{}, nil)
	r.Recheck()
	verdict = denied
	r.Recheck()
	if reasonOf(fickle) != denied || reasonOf(good) != nil || reasonOf(unasked) != nil {
		t.Errorf("reasons %v, %v, %v", reasonOf(fickle), reasonOf(good), reasonOf(unasked))
	}
}

func TestClosedRegistry(t *testing.T) {
	r := capture.NewRegistry(nil)
	stopped := errors.New("stopped")
	e := add(t, r, capture.Facts{}, nil)
	r.Close(stopped)
	if reasonOf(e) != stopped {
		t.Errorf("reason %v", reasonOf(e))
	}
	if _, err := r.Add(capture.Facts{}, nil); err != stopped {
		t.Errorf("a connection is taken although the registry is closed: %v", err)
	}
}

func TestWaitForTheLastConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := capture.NewRegistry(nil)
		if err := r.Wait(t.Context()); err != nil {
			t.Errorf("nothing to wait for: %v", err)
		}
		a, b := add(t, r, capture.Facts{}, nil), add(t, r, capture.Facts{}, nil)
		var waiters sync.WaitGroup
		for range 2 {
			waiters.Go(func() {
				if err := r.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		a.Remove()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one is left, but Wait returns %v", err)
		}
		b.Remove()
		b.Remove()
		waiters.Wait()
	})
}

func TestListIsPerDirectionAndOrdered(t *testing.T) {
	r := capture.NewRegistry(nil)
	a, b, to := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort("10.0.0.3:15008")
	for _, facts := range []capture.Facts{
		{Direction: capture.Inbound, Src: b, Next: to, Host: "web.demo", Tunnels: 1},
		{Direction: capture.Outbound, Src: a, Next: to, Asked: netip.MustParseAddrPort("10.96.0.1:80")},
		{Direction: capture.Inbound, Src: a, Next: to},
	} {
		add(t, r, facts, nil)
	}
	again := netip.MustParseAddrPort("10.0.0.4:15008")
	add(t, r, capture.Facts{Direction: capture.Outbound, Src: b, Next: to, Tunnels: 1}, nil).Leads(again, 2)
	in, out := r.List(capture.Inbound), r.List(capture.Outbound)
	wantIn := []capture.Info{
		{Direction: capture.Inbound, Src: a.String(), Actual: to.String(), Protocol: "TCP"},
		{Direction: capture.Inbound, Src: b.String(), Original: "web.demo", Actual: to.String(), Protocol: "HBONE"},
	}
	wantOut := []capture.Info{
		{Direction: capture.Outbound, Src: a.String(), Original: "10.96.0.1:80", Actual: to.String(), Protocol: "TCP"},
		{Direction: capture.Outbound, Src: b.String(), Actual: again.String(), Protocol: "DOUBLEHBONE"},
	}
	if !slices.Equal(in, wantIn) || !slices.Equal(out, wantOut) {
		t.Errorf("inbound %+v, outbound %+v", in, out)
	}
}

func TestRegistryUnderLoad(t *testing.T) {
	r := capture.NewRegistry(nil)
	denied := errors.New("denied")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				e, err := r.Add(capture.Facts{}, func() error { return denied })
				if err != nil {
					return
				}
				cut := make(chan struct{}, 2)
				e.OnCut(func(error) { cut <- struct{}{} })
				<-cut
				e.Remove()
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for running := true; running; {
		r.Recheck()
		select {
		case <-done:
			running = false
		default:
		}
	}
	if err := r.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}
