package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// Each path that bytes can take through ztunnel: through a tunnel, and plain on either side.
func relayed() []struct{ name, from, to string } {
	return []struct{ name, from, to string }{
		{"through a tunnel", client, far},
		{"plain to an unmeshed server", client, outpost},
		{"plain from an unmeshed client", stranger, far},
	}
}

// The judge of transfers itself: a lost, doubled or changed piece is noticed.
func TestCheckerNoticesWhatIsWrong(t *testing.T) {
	whole, err := io.ReadAll(io.LimitReader(&pattern{}, 2*period+17))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[period+5] ^= 1
	for name, pieces := range map[string][][]byte{
		"whole":     {whole},
		"in pieces": {whole[:1], whole[1:1000], whole[1000:]},
		"lost":      {whole[:1000], whole[1000+1<<16:]},
		"doubled":   {whole[:1<<16], whole[1<<15:]},
		"changed":   {flipped},
	} {
		c := &checker{}
		var wrong error
		for _, piece := range pieces {
			if _, err := c.Write(piece); err != nil && wrong == nil {
				wrong = err
			}
		}
		if good := name == "whole" || name == "in pieces"; good != (wrong == nil) {
			t.Errorf("%s: %v", name, wrong)
		}
	}
}

// Either side may end its half first; the other half goes on.
func TestHalfClose(t *testing.T) {
	c := shared.use(t)
	const question, answer = "the whole question", "an answer after the question's end"
	questions := make(chan string)
	for _, pod := range []string{far, outpost} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) {
			got, err := io.ReadAll(conn)
			if err == nil && string(got) == question {
				io.WriteString(conn, answer)
			}
		})
		serve(t, c, pod, raw+1, func(conn *net.TCPConn) {
			io.WriteString(conn, answer)
			conn.CloseWrite()
			got, _ := io.ReadAll(conn)
			questions <- string(got)
		})
	}
	for _, tc := range relayed() {
		t.Run(tc.name+", the client first", func(t *testing.T) {
			conn := dial(t, c, tc.from, podAddr(c, tc.to, 0, raw))
			if _, err := io.WriteString(conn, question); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); err != nil || string(got) != answer {
				t.Errorf("got %q, %v", got, err)
			}
		})
		t.Run(tc.name+", the server first", func(t *testing.T) {
			conn := dial(t, c, tc.from, podAddr(c, tc.to, 0, raw+1))
			if got, err := io.ReadAll(conn); err != nil || string(got) != answer {
				t.Errorf("got %q, %v", got, err)
			}
			if _, err := io.WriteString(conn, question); err != nil {
				t.Error(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Error(err)
			}
			if got := <-questions; got != question {
				t.Errorf("after the server's end came %q", got)
			}
		})
	}
}

// A reset on one side is a reset, not an orderly end, on the other.
func TestResetIsPassedOn(t *testing.T) {
	c := shared.use(t)
	for _, pod := range []string{far, outpost} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) {
			conn.Read(make([]byte, 1))
			conn.SetLinger(0)
		})
	}
	for _, tc := range relayed() {
		t.Run(tc.name, func(t *testing.T) {
			conn := dial(t, c, tc.from, podAddr(c, tc.to, 0, raw))
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %d bytes, %v; want a reset", n, err)
			}
		})
	}
}

// A refused port looks to the client like a connection that ends without an answer.
func TestNobodyListens(t *testing.T) {
	c := shared.use(t)
	for _, tc := range relayed() {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := c.Dial(t.Context(), tc.from, podAddr(c, tc.to, 0, 9999))
			if errors.Is(err, unix.ECONNRESET) { // It may come before the dialler looks.
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(slow))
			if got := ends(t, conn); len(got) > 0 {
				t.Errorf("an answer from a port that nobody listens on: %q", got)
			}
		})
	}
}

// 64 MiB in both directions at once arrive whole and in order.
func TestBulkBothWays(t *testing.T) {
	c := shared.use(t)
	const size = 64 << 20
	both := func(conn *net.TCPConn) error {
		sent := make(chan error, 1)
		go func() {
			_, err := io.CopyN(conn, &pattern{}, size)
			sent <- errors.Join(err, conn.CloseWrite())
		}()
		check := &checker{}
		_, err := io.Copy(check, conn)
		if err == nil && check.size != size {
			err = fmt.Errorf("%d bytes came, want %d", check.size, size)
		}
		return errors.Join(err, <-sent)
	}
	results := make(chan error)
	for _, pod := range []string{far, outpost} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) { results <- both(conn) })
	}
	for _, tc := range relayed() {
		t.Run(tc.name, func(t *testing.T) {
			began := time.Now()
			conn := dial(t, c, tc.from, podAddr(c, tc.to, 0, raw))
			conn.SetDeadline(time.Now().Add(time.Minute))
			if err := both(conn); err != nil {
				t.Errorf("at the client: %v", err)
			}
			if err := <-results; err != nil {
				t.Errorf("at the server: %v", err)
			}
			t.Logf("%.0f MiB/s in each direction", size/(1<<20)/time.Since(began).Seconds())
		})
	}
}

// A reader that doesn't read stops the writer, and neither ztunnel keeps more than its windows hold.
func TestSlowReaderBoundsMemory(t *testing.T) {
	c := shared.use(t)
	const (
		conns    = 8
		most     = 64 << 20 // of one connection in flight: two kernels' buffers on each of three legs, and the windows
		ztunnels = 128 << 20
	)
	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	defer release()
	serve(t, c, far, raw, func(conn *net.TCPConn) {
		<-released
		check := &checker{}
		if _, err := io.Copy(check, conn); err != nil {
			t.Errorf("after a stall: %v", err)
		}
		fmt.Fprintf(conn, "%d", check.size)
	})
	before := memory(t, c)
	sizes := make([]atomic.Int64, conns)
	var writers sync.WaitGroup
	var all []*net.TCPConn
	for i := range conns {
		conn := dial(t, c, client, podAddr(c, far, 0, raw))
		all = append(all, conn)
		writers.Go(func() { sizes[i].Store(fill(t, conn, most)) })
	}
	writers.Wait()
	during := memory(t, c)
	for name, now := range during {
		t.Logf("%s: %d MiB, before %d MiB", name, now>>20, before[name]>>20)
		if now > before[name]+ztunnels {
			t.Errorf("%s grew by %d MiB for %d stalled connections", name, (now-before[name])>>20, conns)
		}
	}
	release()
	for i, conn := range all {
		conn.SetDeadline(time.Now().Add(time.Minute))
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != fmt.Sprint(sizes[i].Load()) {
			t.Errorf("after the stall %q of %d bytes have arrived: %v", got, sizes[i].Load(), err)
		}
	}
}

// fill writes until nobody takes any more for a second, and returns how much was taken.
func fill(t *testing.T, conn *net.TCPConn, most int64) int64 {
	source, written := &pattern{}, int64(0)
	chunk := make([]byte, 64<<10)
	for written < most {
		io.ReadFull(source, chunk)
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := conn.Write(chunk)
		written += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return written
		}
		if err != nil {
			t.Errorf("after %d bytes: %v", written, err)
			return written
		}
	}
	t.Errorf("%d bytes were taken while nobody reads", written)
	return written
}

// memory is the resident memory of both ztunnels.
func memory(t *testing.T, c *demo.Cluster) map[string]uint64 {
	t.Helper()
	sizes := map[string]uint64{}
	for _, node := range []string{"node1", "node2"} {
		p, err := c.Process(demo.Ztunnel(node))
		if err != nil {
			t.Fatal(err)
		}
		if sizes[p.Name], err = p.Memory(); err != nil {
			t.Fatal(err)
		}
	}
	return sizes
}

// 2,000 connections at once are all served, and leave nothing open behind.
func TestTwoThousandConnections(t *testing.T) {
	c := shared.use(t)
	const count = 2000
	serve(t, c, far, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	before := descriptors(t, c)
	to := vip(c, far, 0, raw)
	began := time.Now()
	var open sync.WaitGroup
	var failed atomic.Pointer[error]
	all := make([]*net.TCPConn, count)
	next := make(chan int)
	for range 64 {
		open.Go(func() {
			for i := range next {
				conn, err := greet(t, c, to, i)
				if err != nil {
					failed.Store(&err)
				}
				all[i] = conn
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	open.Wait()
	t.Logf("%d connections after %s", count, time.Since(began).Round(time.Millisecond))
	for i, conn := range all { // All at once are open now; each still works.
		if conn == nil {
			continue
		}
		if err := exchange(conn, i); err != nil {
			failed.Store(&err)
		}
		conn.Close()
	}
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	back(t, c, before)
}

// greet opens a connection from the client and makes the first exchange on it.
func greet(t *testing.T, c *demo.Cluster, to netip.AddrPort, i int) (*net.TCPConn, error) {
	conn, err := c.Dial(t.Context(), client, to)
	if err != nil {
		return nil, fmt.Errorf("connection %d: %w", i, err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn, exchange(conn, i)
}

// exchange sends a line to an echo server and expects it back.
func exchange(conn *net.TCPConn, i int) error {
	want := fmt.Sprintf("connection %6d", i)
	if _, err := io.WriteString(conn, want); err != nil {
		return fmt.Errorf("connection %d: %w", i, err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		return fmt.Errorf("connection %d: got %q, %w", i, got, err)
	}
	return nil
}
