package worker_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func start(t *testing.T, n int) []*worker.Worker {
	t.Helper()
	workers, err := worker.Start(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { worker.Close(workers) })
	return workers
}

// await is a channel's next value.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func TestWorkersAreNumbered(t *testing.T) {
	for i, w := range start(t, 3) {
		if w.Index != i {
			t.Errorf("worker %d calls itself %d", i, w.Index)
		}
	}
}

// A worker connects inside a pod, and is at home again at the end of the turn: a namespace lives as long as a thread is in it.
func TestDialInsideAPodAndComeHome(t *testing.T) {
	pod, w := netns.New(t, "tulle-worker-test"), start(t, 1)[0]
	l, err := pod.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:8080")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	namespace := func() (name string) {
		_ = w.Do(func() { name, _ = os.Readlink("/proc/thread-self/ns/net") })
		return name
	}
	home := namespace()
	for port, want := range map[uint16]error{8080: nil, 9: unix.ECONNREFUSED} {
		done := make(chan error, 1)
		_ = w.Do(func() {
			_, err := w.Dial(pod.Netns, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), socket.DialConfig{}, func(fd int, err error) {
				if err == nil {
					err = unix.Close(fd)
				}
				done <- err
			})
			if err != nil {
				done <- err
			}
		})
		if err := await(t, "the dial", done); !errors.Is(err, want) {
			t.Errorf("port %d: %v, want %v", port, err, want)
		}
		if now := namespace(); now != home {
			t.Errorf("the worker is in %s, its home is %s", now, home)
		}
	}
}

func TestCancelledDialIsSilentAndClosed(t *testing.T) {
	pod, w := netns.New(t, "tulle-worker-test"), start(t, 1)[0]
	l, err := pod.Listen(socket.ListenConfig{Addr: netip.MustParseAddrPort("127.0.0.1:8080")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_ = w.Do(func() {
		d, err := w.Dial(pod.Netns, netip.MustParseAddrPort("127.0.0.1:8080"), socket.DialConfig{}, func(int, error) { t.Error("done was called") })
		if err != nil {
			t.Error(err)
			return
		}
		d.Cancel()
	})
	arrived := make(chan *net.TCPConn, 1)
	go func() {
		conn, _ := l.AcceptTCP()
		arrived <- conn
	}()
	conn := await(t, "the connection", arrived)
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the cancelled connection is open: %v", err)
	}
	_ = w.Do(func() {}) // whatever done would be called by has run
}

func TestAskGoesOnOnTheWorkerUnlessCancelled(t *testing.T) {
	w := start(t, 1)[0]
	answers := make(chan error, 2)
	want := errors.New("no")
	_ = w.Do(func() {
		w.Ask(t.Context(), func(context.Context) error { return want }, func(err error) { answers <- err })
	})
	if err := await(t, "the answer", answers); err != want {
		t.Errorf("next hears %v", err)
	}
	ended := make(chan struct{})
	_ = w.Do(func() {
		cancel := w.Ask(t.Context(), func(ctx context.Context) error {
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		}, func(err error) { answers <- err })
		cancel()
	})
	await(t, "the end of what was asked", ended)
	_ = w.Do(func() {})
	select {
	case err := <-answers:
		t.Errorf("a cancelled question is answered: %v", err)
	default:
	}
}
