package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	retryPause  = time.Millisecond // after a failure
)

// job is traffic that is being made.
type job struct {
	Job
	counters *counters
	ctx      context.Context
	cancel   context.CancelFunc
	group    sync.WaitGroup
	measured []*Histogram // one for each worker
}

func startJob(spec Job, c *counters) (*job, error) {
	if spec.Conns < 1 || spec.Conns > 20_000 || spec.Size > maxMessage {
		return nil, fmt.Errorf("%d connections of %d bytes: out of range", spec.Conns, spec.Size)
	}
	j := &job{Job: spec, counters: c}
	j.ctx, j.cancel = newJobContext()
	if spec.Kind == Idle {
		return j, j.fill()
	}
	work := map[Kind]func(*Histogram) error{
		Upload:   func(*Histogram) error { return j.hold(portSink, source) },
		Download: func(*Histogram) error { return j.hold(portSource, c.sink) },
		Exchange: func(h *Histogram) error {
			return j.hold(portExchange, func(conn *net.TCPConn) error { return j.exchange(conn, h) })
		},
		Connect: j.connect,
	}[spec.Kind]
	if work == nil {
		return nil, errors.New("no such kind of traffic")
	}
	for range spec.Conns {
		h := &Histogram{}
		j.measured = append(j.measured, h)
		j.group.Go(func() { j.repeat(work, h) })
	}
	return j, nil
}

func newJobContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), jobLimit)
}

// repeat goes on with a worker's traffic until the job ends, whatever fails.
func (j *job) repeat(work func(*Histogram) error, h *Histogram) {
	for j.ctx.Err() == nil {
		if err := work(h); err != nil && j.ctx.Err() == nil {
			j.counters.fail(err)
			time.Sleep(retryPause)
		}
	}
}

func (j *job) stop() {
	j.cancel()
	j.group.Wait()
}

func (j *job) latencies() *Histogram {
	sum := &Histogram{}
	for _, h := range j.measured {
		h.MoveTo(sum)
	}
	return sum
}

// hold makes a connection and uses it until the job ends, which closes it.
func (j *job) hold(port uint16, use func(*net.TCPConn) error) error {
	conn, err := dial(j.ctx, j.To, port)
	if err != nil {
		return err
	}
	defer context.AfterFunc(j.ctx, func() { conn.Close() })()
	defer conn.Close()
	return use(conn)
}

func (j *job) exchange(conn *net.TCPConn, h *Histogram) error {
	if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, uint32(j.Size))); err != nil {
		return err
	}
	request, response := payload(j.Size), make([]byte, j.Size)
	for {
		began := time.Now()
		if _, err := conn.Write(request); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, response); err != nil {
			return err
		}
		h.Add(time.Since(began))
		j.counters.ops.Add(1)
	}
}

func (j *job) connect(h *Histogram) error {
	began := time.Now()
	if err := echo(j.To, dialTimeout); err != nil {
		return err
	}
	h.Add(time.Since(began))
	j.counters.ops.Add(1)
	return nil
}

// echo is a connection for one byte.
func echo(to netip.Addr, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := dial(ctx, to, portEcho)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ping(conn, limit)
}

// ping sends a byte and waits for it to come back.
func ping(conn *net.TCPConn, limit time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	b := []byte{'.'}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, b)
	return err
}

// fillers is how many connections are made at once.
const fillers = 32

// fill opens all connections of an Idle job and returns when they stand.
func (j *job) fill() error {
	errs := make(chan error, fillers)
	for i := range fillers {
		go func() { errs <- j.fillPart(j.Conns/fillers + min(1, max(0, j.Conns%fillers-i))) }()
	}
	var first error
	for range fillers {
		if err := <-errs; first == nil {
			first = err
		}
	}
	if first != nil {
		j.stop()
	}
	return first
}

func (j *job) fillPart(count int) error {
	for range count {
		conn, err := dial(j.ctx, j.To, portEcho)
		if err != nil {
			return err
		}
		j.group.Add(1)
		context.AfterFunc(j.ctx, func() {
			conn.Close()
			j.group.Done()
		})
		if err := ping(conn, dialTimeout); err != nil {
			return err
		}
	}
	return nil
}

// dial connects without keep-alive probes, which would be the same in every column but for their timers. DialTCP would bind
// the socket first, even to no address at all, which uses the range of ports up.
func dial(ctx context.Context, to netip.Addr, port uint16) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(to, port).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
