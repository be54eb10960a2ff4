package drain

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestDrainIsGracefulUntilTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(25 * time.Second)
		if d.Draining().Err() != nil || d.Forced().Err() != nil {
			t.Fatal("a new Drain drains already")
		}
		d.Start("asked to")
		if err := context.Cause(d.Draining()); err == nil || err.Error() != "asked to" {
			t.Errorf("draining because of %v", err)
		}
		time.Sleep(25*time.Second - 1)
		synctest.Wait()
		if d.Forced().Err() != nil {
			t.Error("forced before the deadline")
		}
		d.Start("asked again") // must not begin a new deadline
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if d.Forced().Err() == nil {
			t.Error("not forced at the deadline")
		}
		if err := context.Cause(d.Draining()); err.Error() != "asked to" {
			t.Errorf("the second reason replaced the first: %v", err)
		}
	})
}

func TestSecondSignalForces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(time.Hour)
		signals := make(chan os.Signal)
		go d.watch(t.Context(), signals)
		signals <- syscall.SIGTERM
		synctest.Wait()
		if d.Draining().Err() == nil || d.Forced().Err() != nil {
			t.Error("the first signal must drain gracefully")
		}
		if err := context.Cause(d.Draining()); err == nil || err.Error() != "signal: terminated" {
			t.Errorf("draining because of %v, want the signal", err)
		}
		signals <- syscall.SIGINT
		synctest.Wait()
		if d.Forced().Err() == nil {
			t.Error("the second signal must force")
		}
		if err := context.Cause(d.Forced()); err == nil || err.Error() != "second signal: interrupt" {
			t.Errorf("forced because of %v, want the signal", err)
		}
	})
}

func TestSignalsReachTheProgram(t *testing.T) {
	guard := make(chan os.Signal, 8) // as long as the test listens too, the signal can't kill it
	signal.Notify(guard, syscall.SIGTERM)
	defer signal.Stop(guard)
	d := New(time.Hour)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Signals(t.Context())
	}()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for d.Forced().Err() == nil {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-again.C
	}
	<-ended
}
