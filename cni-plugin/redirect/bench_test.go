package redirect_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// column is a pod whose traffic is captured by an engine, or by none. Where it's captured, the proxy's listener answers itself, so
// that nothing is measured but the way there; where it isn't, the client is told the listener's address.
type column struct {
	engine    redirect.Engine // "" for none
	pod, peer *netns.Namespace
}

const (
	benchPort  = 9080
	pingSize   = 64
	bulkChunk  = 256 << 10
	bulkChunks = 64
	batch      = 100 // connections, or round trips, of one column before the next has its turn
)

func newColumn(b *testing.B, engine redirect.Engine) column {
	bed := useEngine(b, string(redirect.NFT))
	if engine == redirect.EBPF {
		bed = useEngine(b, string(engine))
	}
	pod, peer := newPair(b)
	for _, port := range []uint16{redirect.PortOutbound, redirect.PortInbound} {
		serve(b, pod, port, socket.Mark, serveLoad)
	}
	if engine != "" {
		if err := bed.Set(pod.Netns, desired(b, pod, redirect.Capture)); err != nil {
			b.Fatal(err)
		}
	}
	return column{engine, pod, peer}
}

// serveLoad echoes what is small and swallows the rest. The first byte tells which it is to be.
func serveLoad(conn *net.TCPConn) {
	defer conn.Close()
	buffer := make([]byte, bulkChunk)
	if _, err := io.ReadFull(conn, buffer[:1]); err != nil {
		return
	}
	if buffer[0] == 'b' {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, buffer)
		_, _ = conn.Write(buffer[:1])
		return
	}
	for {
		if _, err := conn.Write(buffer[:1]); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, buffer[:pingSize]); err != nil {
			return
		}
	}
}

// direction is a way that connections are captured on.
type direction struct {
	name string
	from func(column) *netns.Namespace
	// to is what a client dials: somebody else's address out, the pod's in; told is the listener's.
	to, told string
}

var directions = []direction{
	{"outbound", func(c column) *netns.Namespace { return c.pod }, hostPort(peer4, benchPort), hostPort(pod4, redirect.PortOutbound)},
	{"inbound", func(c column) *netns.Namespace { return c.peer }, hostPort(pod4, benchPort), hostPort(pod4, redirect.PortInbound)},
}

func (d direction) dial(c column, kind byte) (*net.TCPConn, error) {
	to := d.to
	if c.engine == "" {
		to = d.told
	}
	conn, err := d.from(c).Dial(context.Background(), netip.MustParseAddrPort(to), socket.DialConfig{Timeout: patience})
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	_, err = conn.Write([]byte{kind})
	return conn, err
}

// connect opens connections for one byte each, and tells how long each took.
func (d direction) connect(c column) (took []time.Duration, err error) {
	for range batch {
		began := time.Now()
		conn, err := d.dial(c, 'p')
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
		conn.Close()
	}
	return took, nil
}

// ping plays ping-pong on one connection.
func (d direction) ping(c column) (took []time.Duration, err error) {
	conn, err := d.dial(c, 'p')
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ball := make([]byte, pingSize)
	if _, err := io.ReadFull(conn, ball[:1]); err != nil {
		return nil, err
	}
	for range batch {
		began := time.Now()
		if _, err := conn.Write(ball); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, ball[:1]); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// bulk sends a lot, and tells how long that took.
func (d direction) bulk(c column) (took []time.Duration, err error) {
	conn, err := d.dial(c, 'b')
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	chunk := make([]byte, bulkChunk)
	began := time.Now()
	for range bulkChunks {
		if _, err := conn.Write(chunk); err != nil {
			return nil, err
		}
	}
	if err := conn.CloseWrite(); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(conn, chunk[:1])
	return []time.Duration{time.Since(began)}, err
}

// BenchmarkCapture measures what the engines cost, beside no capture at all: all columns have their turns in the same run. Client and
// listener share the process, so its CPU time is all there is. "us" is the median without capture, "x" are multiples of it.
func BenchmarkCapture(b *testing.B) {
	var columns []column
	for _, engine := range []redirect.Engine{"", redirect.NFT, redirect.EBPF} {
		columns = append(columns, newColumn(b, engine))
	}
	for _, d := range directions {
		b.Run(d.name+"/connect", func(b *testing.B) { compare(b, columns, d.connect) })
		b.Run(d.name+"/ping", func(b *testing.B) { compare(b, columns, d.ping) })
		b.Run(d.name+"/bulk", func(b *testing.B) { compare(b, columns, d.bulk) })
	}
	for _, c := range columns {
		if c.engine == redirect.EBPF {
			if tracked := trackedBy(b, c.pod); tracked != 0 {
				b.Errorf("%d connections are tracked in a pod with ebpf, want none", tracked)
			}
		}
	}
}

func compare(b *testing.B, columns []column, work func(column) ([]time.Duration, error)) {
	took := make([][]time.Duration, len(columns))
	spent := make([]time.Duration, len(columns))
	for b.Loop() {
		for i, c := range columns {
			before := processorTime(b)
			durations, err := work(c)
			if err != nil {
				b.Fatalf("engine %q: %v", c.engine, err)
			}
			spent[i] += processorTime(b) - before
			took[i] = append(took[i], durations...)
		}
	}
	base, count := median(took[0]), float64(len(took[0]))
	b.ReportMetric(0, "ns/op") // of three columns together
	b.ReportMetric(float64(base.Nanoseconds())/1e3, "us")
	b.ReportMetric(float64(spent[0].Nanoseconds())/1e3/count, "cpu-us")
	for i, c := range columns[1:] {
		b.ReportMetric(float64(median(took[i+1]))/float64(base), string(c.engine)+"-x")
		b.ReportMetric(float64(spent[i+1])/float64(spent[0]), string(c.engine)+"-cpu-x")
	}
}

func median(durations []time.Duration) time.Duration { return quantile(durations, 0.5) }

func quantile(durations []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func processorTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// trackedBy is how many connections a namespace's conntrack knows.
func trackedBy(t testing.TB, ns *netns.Namespace) int {
	t.Helper()
	count := 0
	err := ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if errors.Is(err, os.ErrNotExist) {
			return nil // nothing on this machine tracks
		}
		if err == nil {
			count, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// BenchmarkEnrol measures what is done in a pod to capture its traffic, and to let go.
func BenchmarkEnrol(b *testing.B) {
	for _, engine := range []redirect.Engine{redirect.NFT, redirect.EBPF} {
		b.Run(string(engine), func(b *testing.B) {
			bed := useEngine(b, string(engine))
			pod, _ := newPair(b)
			d := desired(b, pod, redirect.Capture)
			var in, out, spent []time.Duration
			for b.Loop() {
				began, before := time.Now(), processorTime(b)
				if err := bed.Set(pod.Netns, d); err != nil {
					b.Fatal(err)
				}
				in = append(in, time.Since(began))
				spent = append(spent, processorTime(b)-before)
				began = time.Now()
				if err := bed.Set(pod.Netns, redirect.Desired{}); err != nil {
					b.Fatal(err)
				}
				out = append(out, time.Since(began))
				time.Sleep(30 * time.Millisecond) // what the kernel still has to take apart isn't the next pod's
			}
			b.ReportMetric(0, "ns/op")
			// Beside the agent's own time, ebpf waits for the kernel to attach a program, most of "in" and "out".
			for name, took := range map[string][]time.Duration{"in": in, "out": out, "in-cpu": spent} {
				b.ReportMetric(median(took).Seconds()*1e3, name+"-ms")
				b.ReportMetric(quantile(took, 0.99).Seconds()*1e3, name+"-p99-ms")
			}
		})
	}
}
