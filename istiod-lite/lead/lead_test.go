package lead

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const term = 15 * time.Second

// shared is the record that all locks of a test are about.
type shared struct {
	mutex    sync.Mutex
	record   record
	version  int
	down     bool // nobody answers
	released time.Time
}

var errDown = errors.New("no answer")

// open makes one control plane's lock.
func (s *shared) open() lock {
	var read int
	return lock{
		read: func(ctx context.Context) (record, error) {
			if err := s.answer(ctx); err != nil {
				return record{}, err
			}
			s.mutex.Lock()
			defer s.mutex.Unlock()
			read = s.version
			return s.record, nil
		},
		write: func(ctx context.Context, r record) error {
			if err := s.answer(ctx); err != nil {
				return err
			}
			s.mutex.Lock()
			defer s.mutex.Unlock()
			if s.version != read {
				return errors.New("written since")
			}
			if r.Holder == "" {
				s.released = time.Now()
			}
			s.version++
			s.record, read = r, s.version
			return nil
		},
	}
}

func (s *shared) answer(ctx context.Context) error {
	s.mutex.Lock()
	down := s.down
	s.mutex.Unlock()
	if down {
		<-ctx.Done()
		return errDown
	}
	return nil
}

func (s *shared) set(change func(*shared)) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	change(s)
}

// plane is a control plane that takes part.
type plane struct {
	stop  func()
	ended chan struct{}
	err   error         // once it has ended
	slow  time.Duration // for how long the work goes on after it was told to stop

	mutex          sync.Mutex
	began, stopped time.Time // of the last work
}

func (s *shared) start(t *testing.T, name string, slow time.Duration) *plane {
	ctx, cancel := context.WithCancel(t.Context())
	p := &plane{stop: cancel, ended: make(chan struct{}), slow: slow}
	e := &elector{lock: s.open(), Config: Config{Election: Status, Identity: name, Term: term, Work: p.work, Log: slog.New(slog.DiscardHandler)}}
	go func() { defer close(p.ended); p.err = e.run(ctx) }()
	t.Cleanup(func() { cancel(); <-p.ended })
	return p
}

func (p *plane) work(ctx context.Context) error {
	p.mutex.Lock()
	p.began, p.stopped = time.Now(), time.Time{}
	p.mutex.Unlock()
	<-ctx.Done()
	time.Sleep(p.slow) // a request that is still on its way; the time is fake
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.stopped = time.Now()
	return nil
}

func (p *plane) leads() bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return !p.began.IsZero() && p.stopped.IsZero()
}

func TestOneOfThreeLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		planes := []*plane{s.start(t, "a", 0), s.start(t, "b", 0), s.start(t, "c", 0)}
		for range 100 {
			time.Sleep(time.Minute)
			leaders := 0
			for _, p := range planes {
				if p.leads() {
					leaders++
				}
			}
			if leaders != 1 {
				t.Fatalf("%d lead", leaders)
			}
		}
		s.set(func(s *shared) {
			if s.record.Transitions != 1 {
				t.Errorf("the lead changed %d times", s.record.Transitions)
			}
		})
	})
}

func TestShutdownLetsTheLockGoAfterTheWorkHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := s.start(t, "a", 2*time.Second)
		time.Sleep(time.Minute)
		synctest.Wait()
		b := s.start(t, "b", 0)
		time.Sleep(time.Minute)
		synctest.Wait()
		a.stop()
		if <-a.ended; a.err != nil {
			t.Error(a.err)
		}
		if s.released.Before(a.stopped) || a.stopped.IsZero() {
			t.Errorf("lock let go at %s, work stopped at %s", s.released, a.stopped)
		}
		time.Sleep(term / 3)
		synctest.Wait()
		if !b.leads() {
			t.Error("the other doesn't lead a third of a term after the lock was let go")
		}
	})
}

func TestKilledLeaderIsFollowedAfterItsTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shared{version: 1, record: record{Holder: "killed", Seconds: 15, Renewed: time.Now()}}
		b := s.start(t, "b", 0)
		time.Sleep(term)
		synctest.Wait()
		if b.leads() {
			t.Error("it leads while the other may still work")
		}
		time.Sleep(term / 3)
		synctest.Wait()
		if !b.leads() {
			t.Error("it doesn't lead a third of a term after the other's ended")
		}
	})
}

func TestLeaderThatCannotRenewStopsBeforeAnotherBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := s.start(t, "a", term/4)
		time.Sleep(time.Minute)
		synctest.Wait()
		var renewed time.Time
		s.set(func(s *shared) { s.down, renewed = true, s.record.Renewed })
		time.Sleep(term)
		synctest.Wait()
		if a.leads() {
			t.Fatal("it still works a term after its last renewal")
		}
		if lasted := a.stopped.Sub(renewed); lasted >= term {
			t.Errorf("work stopped %s after the last renewal, the term is %s", lasted, term)
		}
		s.set(func(s *shared) { s.down = false })
		time.Sleep(term)
		synctest.Wait()
		if !a.leads() {
			t.Error("it doesn't lead again")
		}
	})
}

func TestStolenLockStopsTheWorkAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := s.start(t, "a", 0)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.set(func(s *shared) {
			s.version++
			s.record.Holder, s.record.Renewed = "istiod", time.Now()
		})
		stolen := time.Now()
		time.Sleep(term / 3)
		synctest.Wait()
		if a.leads() {
			t.Fatal("it still works a third of a term after another took the lock")
		}
		if took := a.stopped.Sub(stolen); took > term/4 {
			t.Errorf("the work stopped %s after the lock was taken", took)
		}
	})
}

func TestWorkThatDoesNotStopIsAnErrorAndKeepsTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared
		a := s.start(t, "a", term)
		time.Sleep(time.Minute)
		synctest.Wait()
		a.stop()
		if <-a.ended; a.err == nil || !strings.Contains(a.err.Error(), "has not stopped within 5s") {
			t.Errorf("error %v", a.err)
		}
		if !s.released.IsZero() {
			t.Error("the lock was let go while the work went on")
		}
		time.Sleep(term)
		synctest.Wait()
	})
}

func TestWorkThatEndsBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun int
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		work := func(ctx context.Context) error {
			if begun++; begun < 3 {
				return errors.New("list failed")
			}
			<-ctx.Done()
			return nil
		}
		e := &elector{lock: new(shared).open(), Config: Config{Election: Status, Identity: "a", Term: term, Work: work, Log: slog.New(slog.DiscardHandler)}}
		ended := make(chan error)
		go func() { ended <- e.run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil || begun != 3 {
			t.Errorf("begun %d times, error %v", begun, err)
		}
	})
}
