package capture_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

const patience = 10 * time.Second

// hung takes connections and decides nothing until it is released.
type hung struct {
	began atomic.Int32

	mu    sync.Mutex
	conns []capture.Conn
}

func (h *hung) decide(conn capture.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, conn)
	h.began.Add(1)
}

func (h *hung) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conn := range h.conns {
		_ = conn.Worker.Post(conn.Refuse)
	}
}

// flood fills a listener's room with hung decisions, and leaves some connections over that wait for it.
func (h *hung) flood(t *testing.T, pod *netns.Namespace, port uint16) (waiting []*net.TCPConn) {
	t.Helper()
	const room, more = 4096, 3
	for i := range room + more {
		conn := dial(t, pod, port)
		if i >= room {
			waiting = append(waiting, conn)
		}
	}
	eventually(t, "the decisions to begin", func() bool { return h.began.Load() >= room })
	return waiting
}

func dial(t *testing.T, pod *netns.Namespace, port uint16) *net.TCPConn {
	t.Helper()
	conn, err := pod.Dial(t.Context(), netip.AddrPortFrom(pod4, port), socket.DialConfig{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func open(t *testing.T, cfg capture.Config) *capture.Listeners {
	t.Helper()
	cfg.Workers, cfg.Listener, cfg.Log = workers(t), wildcard(), slog.New(slog.DiscardHandler)
	l, err := capture.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Whoever can reach the pod can hang decisions about arrivals; what the pod sends goes on, and the other way round.
func TestFloodOfOneDirectionDoesNotStopTheOther(t *testing.T) {
	for name, ports := range map[string]struct{ flooded, other uint16 }{
		"arrivals":          {capture.InboundPort, capture.OutboundPort},
		"what the pod sent": {capture.OutboundPort, capture.InboundPort},
	} {
		t.Run(name, func(t *testing.T) {
			pod, h, passed := netns.New(t, "tulle-capture-test"), &hung{}, make(chan struct{})
			cfg := capture.Config{Netns: pod.Netns, Inbound: h.decide, Outbound: func(conn capture.Conn) { _ = unix.Close(conn.FD); conn.Decided(); close(passed) }}
			if ports.flooded == capture.OutboundPort {
				cfg.Inbound, cfg.Outbound = cfg.Outbound, cfg.Inbound
			}
			l := open(t, cfg)
			defer func() { l.Close(); h.release(); l.Wait(context.Background()) }()
			h.flood(t, pod, ports.flooded)
			dial(t, pod, ports.other)
			select {
			case <-passed:
			case <-time.After(patience):
				t.Errorf("port %d is stopped by hung decisions of port %d", ports.other, ports.flooded)
			}
		})
	}
}

// A connection that waits for room must not hold up the end.
func TestClosingGivesUpTheWaitForRoom(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, end := range map[string]func(*capture.Listeners){
		"close":                  (*capture.Listeners).Close,
		"drain":                  func(l *capture.Listeners) { l.Drain(context.Background()) },
		"drain past its context": func(l *capture.Listeners) { l.Drain(ended) },
	} {
		t.Run(name, func(t *testing.T) {
			pod, h := netns.New(t, "tulle-capture-test"), &hung{}
			l := open(t, capture.Config{Netns: pod.Netns, Inbound: h.decide})
			defer func() { h.release(); l.Wait(context.Background()) }()
			waiting := h.flood(t, pod, capture.InboundPort)
			closed := make(chan struct{})
			go func() { defer close(closed); end(l) }()
			select {
			case <-closed:
			case <-time.After(patience):
				t.Fatal("it waits for room although no decision ends")
			}
			for _, conn := range waiting {
				conn.SetReadDeadline(time.Now().Add(patience))
				if _, err := conn.Read(make([]byte, 1)); err == nil || !isReset(err) {
					t.Errorf("a connection that waited for room ends with %v, want a reset", err)
				}
			}
		})
	}
}

// The kernel completes connections that nobody has accepted yet: their clients believe to be connected.
func TestDrainTakesConnectionsThatWaitInTheKernel(t *testing.T) {
	pod := netns.New(t, "tulle-capture-test")
	const waiting = 100
	var handed atomic.Int32
	entered, release := make(chan struct{}, waiting+1), make(chan struct{})
	l := open(t, capture.Config{Netns: pod.Netns, HBONE: func(_ *worker.Worker, fd int, _, _ netip.AddrPort) {
		entered <- struct{}{}
		<-release // a worker must not do this; here it keeps connections in the kernel
		handed.Add(1)
		_ = unix.Close(fd)
	}})
	for range 2 {
		dial(t, pod, capture.HBONEPort)
		<-entered // now one worker more is busy
	}
	for range waiting {
		dial(t, pod, capture.HBONEPort)
	}
	// The drain should find them all in the kernel; should it begin later than this, it must hand on all the same.
	time.AfterFunc(20*time.Millisecond, func() { close(release) })
	l.Drain(t.Context())
	if got := handed.Load(); got != waiting+2 {
		t.Errorf("%d of %d connections were taken", got, waiting+2)
	}
	if conn, err := pod.Dial(t.Context(), netip.AddrPortFrom(pod4, capture.HBONEPort), socket.DialConfig{}); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}
