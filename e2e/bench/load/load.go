// Package load makes the traffic that the benchmark measures. A load program runs in a simulated pod, serves all kinds of
// traffic and makes what it is told to: net/rpc over its standard input and output.
package load

import (
	"fmt"
	"io"
	"net/netip"
	"net/rpc"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is a kind of traffic.
type Kind string

// The kinds. Each keeps Job.Conns connections or workers busy.
const (
	Upload   Kind = "upload"   // sends as much as it can
	Download Kind = "download" // receives as much as it can
	Exchange Kind = "exchange" // sends Job.Size bytes, awaits as many, again and again
	Connect  Kind = "connect"  // connects, has one byte echoed, closes, again and again
	Idle     Kind = "idle"     // connects, has one byte echoed, and stays
)

// Job is traffic to make.
type Job struct {
	Kind  Kind
	To    netip.Addr
	Conns int
	Size  int // bytes of an exchange
}

// Totals are counters since the start of the program, and the latencies since the last reading.
type Totals struct {
	Bytes    int64 // received of Upload and Download, by whichever side receives
	Ops      int64 // exchanges, or connections that were echoed
	Failures int64
	Failure  string // the last one
	P50, P99 time.Duration
}

// Marker is in every payload of more than a few bytes, so that it can be looked for on the wire.
const Marker = "tulle-bench: in the clear"

// jobLimit ends a job that nobody stopped.
const jobLimit = 5 * time.Minute

// Serve is the program: it serves traffic on all addresses, and its standard input until that ends.
func Serve() error {
	c := &counters{}
	if _, err := c.listen(""); err != nil {
		return fmt.Errorf("serve load: %w", err)
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Load", &control{counters: c}); err != nil {
		return err
	}
	server.ServeConn(pipe{os.Stdin, os.Stdout})
	return nil
}

// pipe is what the program is told by.
type pipe struct {
	io.ReadCloser
	io.WriteCloser
}

// Close implements io.Closer.
func (p pipe) Close() error {
	p.ReadCloser.Close()
	return p.WriteCloser.Close()
}

// control is what can be called from outside.
type control struct {
	counters *counters
	mu       sync.Mutex // guards job
	job      *job       // nil: none runs
}

// Start begins a job; for Idle it returns when all connections stand.
func (c *control) Start(spec Job, _ *struct{}) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job != nil {
		return fmt.Errorf("start %s: another job runs", spec.Kind)
	}
	job, err := startJob(spec, c.counters)
	if err != nil {
		return fmt.Errorf("start %s: %w", spec.Kind, err)
	}
	c.job = job
	return nil
}

// Stop ends the job, if one runs, and returns when its connections are closed.
func (c *control) Stop(struct{}, *struct{}) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job != nil {
		c.job.stop()
		c.job = nil
	}
	return nil
}

// Read returns the counters, and forgets the latencies so far.
func (c *control) Read(_ struct{}, totals *Totals) error {
	*totals = c.counters.totals()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job != nil {
		sum := c.job.latencies()
		totals.P50, totals.P99 = sum.Quantile(0.5), sum.Quantile(0.99)
	}
	return nil
}

// Attempt is a connection that was tried until it was echoed.
type Attempt struct{ Began, At time.Time }

// First connects until a byte comes back.
func (c *control) First(to netip.Addr, attempt *Attempt) error {
	var err error
	attempt.Began = time.Now()
	for deadline := attempt.Began.Add(firstLimit); time.Now().Before(deadline); time.Sleep(firstPause) {
		if err = echo(to, time.Second); err == nil {
			attempt.At = time.Now()
			return nil
		}
	}
	return fmt.Errorf("no answer within %s: %w", firstLimit, err)
}

const (
	firstLimit = 20 * time.Second
	firstPause = 500 * time.Microsecond
)

// counters are what the program has seen. They may be used from any goroutine.
type counters struct {
	bytes, ops, failures atomic.Int64
	failure              atomic.Pointer[string]
}

func (c *counters) fail(err error) {
	text := err.Error()
	c.failure.Store(&text)
	c.failures.Add(1)
}

func (c *counters) totals() Totals {
	t := Totals{Bytes: c.bytes.Load(), Ops: c.ops.Load(), Failures: c.failures.Load()}
	if text := c.failure.Load(); text != nil {
		t.Failure = *text
	}
	return t
}
