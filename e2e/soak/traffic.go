package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// patience is for one connection to get on; long before it the mesh should have given up.
const patience = 20 * time.Second

// kind is what a connection is used for. The client says it in its first byte, so one server serves all.
type kind byte

const (
	echoed     kind = 'e' // what is sent comes back until the client ends
	digested   kind = 'd' // what is sent is answered by its digest, after the client has ended
	poured     kind = 'p' // the client ends at once and receives much
	serverCuts kind = 'r' // the server resets when it has got a byte more
	clientCuts kind = 'c' // the client resets when it has got its byte back
)

// pouredBytes is what a server pours.
const pouredBytes = 1 << 20

// traffic is what runs from one pod, and what it has counted.
type traffic struct {
	pod    string
	dial   func(context.Context, netip.AddrPort) (*net.TCPConn, error)
	to     []netip.AddrPort
	window *atomic.Uint64 // odd while failures are allowed

	opened, failed, excused, bytes atomic.Uint64
	mu                             sync.Mutex
	failures                       []string
}

// mix is how many workers do what, and how long they rest in between.
var mix = []struct {
	name    string
	workers int
	pause   time.Duration
	use     func(*net.TCPConn, *rand.Rand, <-chan struct{}) (int, error)
}{
	{"short", 4, 5 * time.Millisecond, useShort},
	{"requests", 2, 10 * time.Millisecond, useRequests},
	{"bulk", 1, 50 * time.Millisecond, useBulk},
	{"half closed", 1, 20 * time.Millisecond, useHalfClosed},
	{"reset by the server", 1, 20 * time.Millisecond, useServerReset},
	{"reset by the client", 1, 20 * time.Millisecond, useClientReset},
	{"long-lived", 4, 10 * time.Millisecond, useLong},
}

// run makes connections until stop is closed, and returns when the last has ended.
func (t *traffic) run(stop <-chan struct{}) {
	var workers sync.WaitGroup
	for _, m := range mix {
		for i := range m.workers {
			workers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), t.opened.Load()))
				tick := time.NewTicker(m.pause)
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
						t.once(m.name, t.to[r.IntN(len(t.to))], func(conn *net.TCPConn) (int, error) { return m.use(conn, r, stop) })
					}
				}
			})
		}
	}
	workers.Wait()
}

// once makes and uses one connection.
func (t *traffic) once(name string, to netip.AddrPort, use func(*net.TCPConn) (int, error)) {
	window := t.window.Load()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := t.dial(ctx, to)
	if err == nil {
		t.opened.Add(1)
		_ = conn.SetDeadline(time.Now().Add(patience))
		var n int
		n, err = use(conn)
		t.bytes.Add(uint64(n))
		_ = conn.Close()
	}
	switch {
	case err == nil:
	case window%2 == 1 || t.window.Load() != window:
		t.excused.Add(1)
	default:
		t.fail(fmt.Sprintf("%s %s from %s to %s: %v", time.Now().Format("15:04:05.000"), name, t.pod, to, err))
	}
}

func (t *traffic) fail(line string) {
	t.failed.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failures) < 20 {
		t.failures = append(t.failures, line)
	}
}

// told returns the failures since it was last asked.
func (t *traffic) told() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	failures := t.failures
	t.failures = nil
	return failures
}

// exchange sends bytes and expects them back.
func exchange(conn *net.TCPConn, p []byte) error {
	if _, err := conn.Write(p); err != nil {
		return err
	}
	back := make([]byte, len(p))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if string(back) != string(p) {
		return errors.New("other bytes come back")
	}
	return nil
}

// finish ends our direction and expects the server to end as well.
func finish(conn *net.TCPConn) error {
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("instead of an end: %d bytes, %v", n, err)
	}
	return nil
}

func useShort(conn *net.TCPConn, r *rand.Rand, _ <-chan struct{}) (int, error) {
	if err := begin(conn, echoed); err != nil {
		return 0, err
	}
	p := random(r, 1+r.IntN(4000))
	return 2 * len(p), errors.Join(exchange(conn, p), finish(conn))
}

func useRequests(conn *net.TCPConn, r *rand.Rand, _ <-chan struct{}) (int, error) {
	if err := begin(conn, echoed); err != nil {
		return 0, err
	}
	p := random(r, 1024)
	for range 100 {
		if err := exchange(conn, p); err != nil {
			return 0, err
		}
	}
	return 200 * len(p), finish(conn)
}

func useLong(conn *net.TCPConn, r *rand.Rand, stop <-chan struct{}) (n int, err error) {
	if err := begin(conn, echoed); err != nil {
		return 0, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p := random(r, 100); ; n += 2 * len(p) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if err := exchange(conn, p); err != nil {
			return n, err
		}
		select {
		case <-stop:
			return n, finish(conn)
		case <-tick.C:
		}
	}
}

func useBulk(conn *net.TCPConn, r *rand.Rand, _ <-chan struct{}) (int, error) {
	if err := begin(conn, digested); err != nil {
		return 0, err
	}
	content := random(r, 4<<20+r.IntN(12<<20))
	if _, err := conn.Write(content); err != nil {
		return 0, err
	}
	if err := conn.CloseWrite(); err != nil {
		return 0, err
	}
	var got [sha256.Size]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return 0, err
	}
	if got != sha256.Sum256(content) {
		return 0, errors.New("the server got other bytes")
	}
	return len(content), nil
}

func useHalfClosed(conn *net.TCPConn, _ *rand.Rand, _ <-chan struct{}) (int, error) {
	if err := begin(conn, poured); err != nil {
		return 0, err
	}
	if err := conn.CloseWrite(); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, conn)
	if err == nil && n != pouredBytes {
		err = fmt.Errorf("%d of %d bytes", n, pouredBytes)
	}
	return int(n), err
}

func useServerReset(conn *net.TCPConn, _ *rand.Rand, _ <-chan struct{}) (int, error) {
	if err := begin(conn, serverCuts); err != nil {
		return 0, err
	}
	if err := exchange(conn, []byte{1}); err != nil {
		return 0, err
	}
	if _, err := conn.Write([]byte{2}); err != nil {
		return 0, err
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		return 0, fmt.Errorf("instead of a reset: %d bytes, %v", n, err)
	}
	return 2, nil
}

func useClientReset(conn *net.TCPConn, _ *rand.Rand, _ <-chan struct{}) (int, error) {
	if err := begin(conn, clientCuts); err != nil {
		return 0, err
	}
	err := exchange(conn, []byte{1})
	_ = conn.SetLinger(0)
	return 2, err
}

func begin(conn *net.TCPConn, k kind) error {
	_, err := conn.Write([]byte{byte(k)})
	return err
}

func random(r *rand.Rand, n int) []byte {
	p := make([]byte, (n+7)&^7)
	for i := 0; i < len(p); i += 8 {
		binary.NativeEndian.PutUint64(p[i:], r.Uint64())
	}
	return p[:n]
}

// serve is the server's side of a connection. What it finds wrong it returns.
func serve(conn *net.TCPConn) error {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Hour))
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return nil // the client knows
	}
	switch kind(first[0]) {
	case echoed:
		_, _ = io.Copy(conn, conn) // so it does here
	case digested:
		h := sha256.New()
		if _, err := io.Copy(h, conn); err == nil {
			_, _ = conn.Write(h.Sum(nil))
		}
	case poured:
		_, _ = conn.Write(make([]byte, pouredBytes))
	case serverCuts:
		_, _ = io.CopyN(conn, conn, 1)
		_, _ = io.ReadFull(conn, first)
		_ = conn.SetLinger(0)
	case clientCuts:
		_, _ = io.CopyN(conn, conn, 1)
		if _, err := conn.Read(first); err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("a client's reset arrives as %w", err)
		}
	default:
		return fmt.Errorf("a connection begins with %q", first)
	}
	return nil
}
