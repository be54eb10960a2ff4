package hbone

import (
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/relay"
)

// BenchmarkThroughput moves bytes one way through both sides and two more sockets, all in this process. The plain case is the
// same through a splice relay, as the measure of this machine.
func BenchmarkThroughput(b *testing.B) {
	const piece = 128 << 10
	run := func(b *testing.B, from, to []*net.TCPConn) {
		b.SetBytes(piece)
		b.ReportAllocs()
		var readers, writers sync.WaitGroup
		for _, c := range to {
			readers.Go(func() { _, _ = io.Copy(io.Discard, c) })
		}
		b.ResetTimer()
		for i, c := range from {
			writers.Go(func() {
				p := make([]byte, piece)
				for n := i; n < b.N; n += len(from) {
					if _, err := c.Write(p); err != nil {
						b.Error(err)
						return
					}
				}
				_ = c.CloseWrite()
			})
		}
		writers.Wait()
		readers.Wait()
		b.StopTimer()
		for _, c := range to {
			_ = c.Close()
		}
	}
	for name, streams := range map[string]int{"1": 1, "8": 8} {
		b.Run("tunnel/streams="+name, func(b *testing.B) {
			bed := newBed(b)
			var from, to []*net.TCPConn
			var all []*ends
			for range streams {
				e := bed.tunnelled()
				from, to, all = append(from, e.near), append(to, e.far), append(all, e)
			}
			run(b, from, to)
			for _, e := range all {
				result(b, e.nearEnd)
			}
		})
		b.Run("plain/streams="+name, func(b *testing.B) {
			var from, to []*net.TCPConn
			l := newLoop(b)
			done := make(chan relay.Result, streams)
			for range streams {
				near, nearInner := tcpPair(b)
				far, farInner := tcpPair(b)
				_ = l.Do(func() { relay.Join(l, takeFD(nearInner), takeFD(farInner), func(r relay.Result) { done <- r }) })
				from, to = append(from, near), append(to, far)
			}
			run(b, from, to)
			for range streams {
				result(b, done)
			}
		})
	}
}

// BenchmarkRoundTrip sends 1 KiB and has it echoed, over one tunnelled connection.
func BenchmarkRoundTrip(b *testing.B) {
	bed := newBed(b)
	e := bed.tunnelled()
	var echo sync.WaitGroup
	echo.Go(func() {
		_, _ = io.Copy(e.far, e.far)
		_ = e.far.CloseWrite()
	})
	p := make([]byte, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.near.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(e.near, p); err != nil {
			b.Fatal(err)
		}
	}
	_ = e.near.CloseWrite()
	echo.Wait()
	result(b, e.nearEnd)
}

// BenchmarkIdle tells what an idle connection costs in memory, both ends of it together.
func BenchmarkIdle(b *testing.B) {
	const connections = 400
	bed := newBed(b)
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	for b.Loop() {
		before := used()
		all := make([]*ends, connections)
		for i := range all {
			all[i] = bed.tunnelled()
			exchangeOnce(b, all[i])
		}
		b.ReportMetric(float64(used()-before)/connections, "B/connection")
		for _, e := range all {
			_ = e.near.CloseWrite()
			_ = e.far.CloseWrite()
			result(b, e.nearEnd)
		}
	}
}

func exchangeOnce(b *testing.B, e *ends) {
	if _, err := e.near.Write([]byte("ping")); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(e.far, make([]byte, 4)); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkConnect opens and closes streams on a tunnel that is there.
func BenchmarkConnect(b *testing.B) {
	bed := newBed(b)
	bed.onConnect(func(in *Incoming) {
		if s, err := in.Accept(Baggage{}); err == nil {
			s.Reset()
		}
	})
	b.ReportAllocs()
	for b.Loop() {
		reset(bed.connect())
	}
}
