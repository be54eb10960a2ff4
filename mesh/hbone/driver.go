package hbone

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
)

// The driver moves a tunnel's bytes: one goroutine reads and never writes to the tunnel, and whoever has something to send
// writes for everybody while others add to the next batch. Nothing outside the driver's files knows how bytes move.

const (
	batchSize    = 64 << 10 // bytes of frames per write, four TLS records
	batchTurns   = 4        // batches that a stream's own goroutine writes before it hands over
	readSize     = 16 << 10 // the payload of a TLS record
	closeTimeout = time.Second
)

var (
	batches = sync.Pool{New: func() any { return new([batchSize]byte) }}
	reads   = sync.Pool{New: func() any { return new([readSize]byte) }}
)

// packed is the socket under TLS. It gathers the records of one batch into a single write.
type packed struct {
	net.Conn

	mu     sync.Mutex
	corked bool
	out    []byte
}

// Write is called by TLS for every record, also from the reading goroutine for alerts and key updates.
func (p *packed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.corked {
		p.out = append(p.out, b...)
		return len(b), nil
	}
	return p.Conn.Write(b)
}

const recordOverhead = 5 + 1 + 16 // of a TLS 1.3 record: header, content type, tag

var sealed = sync.Pool{New: func() any {
	return new([batchSize + (batchSize/readSize+1)*recordOverhead]byte)
}}

// writeBatch sends b through TLS with one system call.
func (p *packed) writeBatch(conn net.Conn, b []byte) error {
	space := sealed.Get().(*[batchSize + (batchSize/readSize+1)*recordOverhead]byte)
	defer sealed.Put(space)
	p.mu.Lock()
	p.corked, p.out = true, space[:0]
	p.mu.Unlock()
	_, err := conn.Write(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.out
	p.corked, p.out = false, nil
	if err != nil {
		return err
	}
	_, err = p.Conn.Write(out)
	return err
}

// kick sees to it that what waits is sent, by another goroutine. It is called with mu held.
func (t *tunnel) kick() {
	if t.flushing || t.closed {
		return
	}
	if t.core.HasOutput() || t.ending {
		t.flushing = true
		t.spawn(func() {
			t.mu.Lock()
			t.flush(-1)
			t.mu.Unlock()
		})
	}
}

// flushNow sends what waits by the calling goroutine, unless another is at it. It is called with mu held, and lets go of it
// while it writes.
func (t *tunnel) flushNow() {
	if !t.flushing && !t.closed && t.core.HasOutput() {
		t.flushing = true
		t.flush(batchTurns)
	}
}

// flush writes batches until there is nothing to send, or for a number of turns; then somebody else has to. It is called with
// mu held by whoever set flushing.
func (t *tunnel) flush(turns int) {
	space := batches.Get().(*[batchSize]byte)
	defer batches.Put(space)
	for ; turns != 0 && !t.closed; turns-- {
		batch := t.fill(space[:0])
		if len(batch) == 0 {
			break
		}
		t.mu.Unlock()
		err := t.socket.writeBatch(t.conn, batch)
		t.mu.Lock()
		if err != nil {
			t.unwritable(err)
		}
	}
	if t.ending && !t.closed && !t.core.HasOutput() {
		t.sayGoodbye()
	}
	t.flushing = false
	t.kick()
}

// unwritable notes that nothing more can be sent. What the peer sent before it broke the connection may tell why, so the reading
// goroutine ends the tunnel. It is called with mu held.
func (t *tunnel) unwritable(err error) {
	t.closed = true
	if t.err != nil {
		_ = t.socket.Close()
		return
	}
	t.writeErr = err
	_ = t.socket.SetReadDeadline(time.Now().Add(closeTimeout))
}

// sayGoodbye ends our direction of the connection. Closing it at once could throw away what the peer has not received; the
// reading goroutine closes it when the peer has, or at the deadline.
func (t *tunnel) sayGoodbye() {
	t.closed = true
	t.mu.Unlock()
	defer t.mu.Lock()
	if half, ok := t.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	if half, ok := t.socket.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// fill builds a batch: control frames first, then data, stream by stream.
func (t *tunnel) fill(batch []byte) []byte {
	batch = t.core.AppendControl(batch)
	for cap(batch)-len(batch) > h2.FrameHeaderLen {
		id, n := t.core.Next()
		if n == 0 {
			break
		}
		s := t.streams[id]
		if s == nil || len(s.out) == 0 {
			t.core.Unready(id)
			continue
		}
		n = min(n, len(s.out), cap(batch)-len(batch)-h2.FrameHeaderLen)
		batch = t.core.AppendData(batch, id, n, false)
		batch = append(batch, s.out[:n]...)
		if s.out = s.out[n:]; len(s.out) > 0 {
			t.core.Ready(id)
		} else {
			s.changed.Broadcast()
		}
	}
	return batch
}

// read is the reading goroutine. After the tunnel's end it waits until the peer has ended too.
func (t *tunnel) read() {
	err := t.readAll()
	t.mu.Lock()
	if t.writeErr != nil && !isAlert(err) {
		err = t.writeErr
	}
	t.die(err)
	err = t.err
	t.mu.Unlock()
	if t.fault != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errClosed) {
		t.fault(err)
	}
	_, _ = io.Copy(io.Discard, t.conn)
	_ = t.socket.Close()
}

// readAll reads until the tunnel ends. Between frames it waits with a buffer of a frame header's size, so that an idle tunnel
// owns none.
func (t *tunnel) readAll() error {
	var header [h2.FrameHeaderLen]byte
	for {
		if err := t.readInto(header[:]); err != nil {
			return err
		}
		for t.core.MidFrame() {
			space := reads.Get().(*[readSize]byte)
			err := t.readInto(space[:])
			reads.Put(space)
			if err != nil {
				return err
			}
		}
	}
}

// readInto reads once. The read deadline is the tunnel's clock.
func (t *tunnel) readInto(p []byte) error {
	n, err := t.conn.Read(p)
	if n > 0 {
		if err := t.receive(p[:n]); err != nil {
			return err
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return t.tick(time.Now())
	}
	return err
}

// receive gives bytes to the core and acts on what they mean.
func (t *tunnel) receive(p []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		t.endIfDrained()
		t.kick()
	}()
	for len(p) > 0 {
		n, ev, err := t.core.Receive(p)
		p = p[n:]
		if err != nil {
			return err
		}
		if ev.Kind != h2.None {
			t.handle(ev)
		}
		if err := t.core.Err(); err != nil {
			return err
		}
	}
	return nil
}

// stageOf tells a broken tunnel's stage: with TLS 1.3 a client hears only after its handshake that it was refused.
func stageOf(err error) Stage {
	if isAlert(err) {
		return StageTLS
	}
	return StageHTTP2
}

// isAlert tells that the peer ended the connection by a TLS alert, as it does when it doesn't like our certificate.
func isAlert(err error) bool {
	var alert tls.AlertError
	var op *net.OpError
	return errors.As(err, &alert) || (errors.As(err, &op) && op.Op == "remote error")
}
