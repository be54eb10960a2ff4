package record

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// withSuite runs f with each suite, which it also has crypto/tls agree on.
func withSuite(b *testing.B, f func(b *testing.B, suite uint16)) {
	for _, id := range allSuites {
		b.Run(tls.CipherSuiteName(id), func(b *testing.B) {
			before := defaultCipherSuitesTLS13
			defaultCipherSuitesTLS13 = []uint16{id}
			defer func() { defaultCipherSuitesTLS13 = before }()
			f(b, id)
		})
	}
}

// BenchmarkSeal makes full records in place, and, in the same run, has crypto/tls write the same to nowhere. crypto/tls/ours is
// how many times longer it takes.
func BenchmarkSeal(b *testing.B) {
	withSuite(b, func(b *testing.B, suite uint16) {
		w, _ := pair(b, suite, Client)
		slot := make([]byte, SlotLen)
		seal := func() { w.Seal(slot, MaxPlaintext) }
		b.SetBytes(MaxPlaintext)
		b.ReportAllocs()
		for b.Loop() {
			seal()
		}
		_, theirs := benchPeer(b)
		chunk := make([]byte, MaxPlaintext)
		b.ReportMetric(ratio(func() {
			if _, err := theirs.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}, seal), "crypto/tls/ours")
	})
}

// BenchmarkOpen makes a record, since opening destroys it, and opens it. In the same run crypto/tls reads such records from memory;
// the ratio is of the time without that of making them.
func BenchmarkOpen(b *testing.B) {
	withSuite(b, func(b *testing.B, suite uint16) {
		w, r := pair(b, suite, Client)
		slot := make([]byte, SlotLen)
		open := func() {
			n, err := r.Next(slot[:w.Seal(slot, MaxPlaintext)])
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.Open(slot[:n]); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(MaxPlaintext)
		b.ReportAllocs()
		for b.Loop() {
			open()
		}
		ours, theirs := benchPeer(b)
		chunk := make([]byte, MaxPlaintext)
		conn := theirs.NetConn().(*detached)
		other, _ := pair(b, suite, Client)
		making := fastest(func() { other.Seal(slot, MaxPlaintext) })
		read := fastest(func() {
			conn.in = slot[:ours.Seal(slot, MaxPlaintext)]
			if _, err := io.ReadFull(theirs, chunk); err != nil {
				b.Fatal(err)
			}
		})
		b.ReportMetric(float64(read-making)/float64(fastest(open)-making), "crypto/tls/ours")
	})
}

// ratio is how many times longer a takes than b.
func ratio(a, b func()) float64 { return float64(fastest(a)) / float64(fastest(b)) }

// fastest is how long a batch of calls takes when nothing else disturbs it, as far as that happens.
func fastest(f func()) time.Duration {
	best := time.Hour
	for range 200 {
		start := time.Now()
		for range 20 {
			f()
		}
		best = min(best, time.Since(start))
	}
	return best
}

// detached is a connection that can be cut off its socket: what is written is gone, and read is what a benchmark puts there.
type detached struct {
	net.Conn
	cut bool
	in  []byte
}

func (d *detached) Read(p []byte) (int, error) {
	if !d.cut {
		return d.Conn.Read(p)
	}
	n := copy(p, d.in)
	d.in = d.in[n:]
	return n, nil
}

func (d *detached) Write(p []byte) (int, error) {
	if !d.cut {
		return d.Conn.Write(p)
	}
	return len(p), nil
}

// benchPeer is crypto/tls's end of a connection, detached, and the Writer of the other.
func benchPeer(b *testing.B) (*Writer, *tls.Conn) {
	b.Helper()
	client, server := configs(b)
	dialled, accepted := sockets(b)
	conn := &detached{Conn: dialled}
	theirs := tls.Client(conn, client)
	shaken := make(chan error)
	go func() { shaken <- theirs.Handshake() }()
	ours, err := drive(accepted, server, Server)
	if err := errors.Join(err, <-shaken); err != nil {
		b.Fatal(err)
	}
	conn.cut = true
	return ours.writer, theirs
}

// BenchmarkKeyUpdate is what a peer that asks for new keys all the time costs us, our answer included.
func BenchmarkKeyUpdate(b *testing.B) {
	w, r := pair(b, tls.TLS_AES_128_GCM_SHA256, Client)
	answer, _ := pair(b, tls.TLS_AES_128_GCM_SHA256, Server)
	space := make([]byte, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		r.idle = 0
		wire, _ := w.AppendKeyUpdate(space, true)
		if _, err := r.Open(wire); err != nil || !r.UpdateRequested() {
			b.Fatal(err)
		}
		_, _ = answer.AppendKeyUpdate(space, false)
	}
}

// BenchmarkHandshake is both ends of one, in memory, and what both ends keep of it.
func BenchmarkHandshake(b *testing.B) {
	client, server := configs(b)
	b.ReportAllocs()
	for b.Loop() {
		startInMemory(client, server).finish(b, 1<<20)
	}
	kept := make([]*Result, 0, 2000)
	before := heap()
	for range cap(kept) / 2 {
		a, b := startInMemory(client, server).finish(b, 1<<20)
		kept = append(kept, a, b)
	}
	b.ReportMetric(float64(heap()-before)/float64(len(kept)), "heap-B/end")
	runtime.KeepAlive(kept)
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
