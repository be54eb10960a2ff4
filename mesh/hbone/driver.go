package hbone

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
)

// How a tunnel's bytes move. receive and send are tasks of the loop: receive reads the tunnel's socket once a turn and writes
// to the applications' sockets; send reads from the applications' sockets and writes to the tunnel's once a turn.

// keepCopy is up to how many bytes are copied, rather than keep the whole buffer which they are in.
const keepCopy = 16 << 10

// Ready implements loop.Handler for the tunnel's socket.
func (t *tunnel) Ready(events loop.Events) {
	if events.Has(loop.Readable | loop.PeerEnd | loop.Broken) {
		t.ending = t.ending || events.Has(loop.PeerEnd|loop.Broken|loop.Urgent)
		t.loop.Input(&t.in)
	}
	if events.Has(loop.Writable|loop.Broken) && t.blocked {
		t.blocked = false
		t.flush()
	}
}

// receive reads once and acts on what came. When the buffer was filled there may be more, which waits for the next turn, so that
// one tunnel doesn't hold up all others.
func (t *tunnel) receive() {
	if t.deaf {
		return
	}
	buffer := t.loop.Buffer()
	defer t.loop.Return(buffer)
	have := copy(buffer, t.partial)
	n, err := loop.Read(t.fd, buffer[have:])
	if have+n == len(buffer) || (n > 0 && t.ending) {
		t.loop.Input(&t.in)
	}
	if t.err == nil {
		rest, fault := t.openRecords(buffer[:have+n])
		t.deliverAll()
		t.keepPartial(rest, n)
		if fault != nil {
			t.die(fault)
		}
	}
	switch {
	case err != nil && err != unix.EAGAIN:
		t.broken(fmt.Errorf("read from the tunnel: %w", err))
	case err == nil && n == 0:
		t.broken(io.EOF)
	}
	t.endIfDrained()
	t.flush()
	if len(t.ends) > 0 {
		t.loop.Output(&t.last)
	}
}

// keepPartial keeps the beginning of a record. Its space stays while there is much to receive, as then there soon is another.
func (t *tunnel) keepPartial(rest []byte, received int) {
	if len(rest) == 0 && received < keepCopy {
		t.partial = nil
		return
	}
	t.partial = append(t.partial[:0], rest...)
}

// openRecords opens the records in p and acts on what is in them. It returns what is left of p, the beginning of a record.
func (t *tunnel) openRecords(p []byte) (rest []byte, err error) {
	for {
		n, err := t.reader.Next(p)
		if n == 0 || err != nil {
			return p, err
		}
		data, err := t.reader.Open(p[:n])
		if err == nil {
			err = t.take(data)
		}
		if err != nil {
			return nil, err
		}
		p = p[n:]
	}
}

// take gives plaintext to the core and acts on what it means.
func (t *tunnel) take(p []byte) error {
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

// deliverAll writes what this turn brought for the applications.
func (t *tunnel) deliverAll() {
	for i, s := range t.touched {
		t.touched[i] = nil
		s.writePieces()
	}
	t.touched = t.touched[:0]
}

// passEnds tells applications that their peers have ended. That comes last in a turn, since nobody waits for it as for the answer to the next
// CONNECT, which the same peer often asks at once: it costs as much as sending that.
func (t *tunnel) passEnds() {
	for i, s := range t.ends {
		t.ends[i] = nil
		s.endReceived()
	}
	t.ends = t.ends[:0]
}

// broken ends what comes from the peer.
func (t *tunnel) broken(err error) {
	t.deaf = true
	t.die(err)
}

// send sends what waits: first what the socket didn't take before, then control frames, then data, stream by stream.
func (t *tunnel) send() {
	if err := t.core.Err(); err != nil {
		t.die(err)
	}
	if !t.mute && t.sendUnsent() {
		b := batch{writer: t.writer, space: t.loop.Buffer()}
		t.fill(&b)
		t.held, t.unsent = b.space, b.space[:b.sealed]
		if t.sendUnsent() && b.full() {
			t.flush() // there is more, for the next turn
		}
	}
	t.finish()
}

// fill builds a batch: control frames first, then data, stream by stream.
func (t *tunnel) fill(b *batch) {
	if t.reader.UpdateRequested() || t.writer.NeedsUpdate() {
		if err := b.rekey(); err != nil {
			t.unwritable(err)
			return
		}
	}
	b.control(t.core)
	for !b.full() {
		id, n := t.core.Next()
		if n == 0 {
			break
		}
		if s := t.streams[id]; s == nil || !s.readInto(b, n) {
			t.core.Unready(id)
		}
	}
	b.control(t.core)
	b.seal()
	if t.err != nil && !t.said && !t.core.HasOutput() && !b.full() {
		t.said = true
		b.end(alertOf(t.err))
	}
}

// sendUnsent writes what is sealed, and tells whether all of it is gone.
func (t *tunnel) sendUnsent() bool {
	for len(t.unsent) > 0 {
		if t.blocked {
			return false
		}
		n, err := loop.Write(t.fd, t.unsent)
		if err == unix.EAGAIN {
			t.blocked = true
			t.keepUnsent()
			return false
		}
		if err != nil {
			t.unwritable(err)
			return false
		}
		t.unsent = t.unsent[n:]
	}
	t.dropUnsent()
	return true
}

// keepUnsent waits with what the socket didn't take. A little is moved, so that a stalled tunnel doesn't hold a whole buffer.
func (t *tunnel) keepUnsent() {
	if t.held != nil && len(t.unsent) <= keepCopy {
		unsent := append([]byte(nil), t.unsent...)
		t.dropUnsent()
		t.unsent = unsent
	}
}

func (t *tunnel) dropUnsent() {
	if t.held != nil {
		t.loop.Return(t.held)
	}
	t.held, t.unsent = nil, nil
}

// unwritable notes that nothing more can be sent. What the peer sent before it broke the connection may tell why, so receive
// ends the tunnel, or the clock if nothing comes.
func (t *tunnel) unwritable(err error) {
	t.mute = true
	t.dropUnsent()
	if t.err == nil && !t.deaf {
		t.writeErr = fmt.Errorf("write to the tunnel: %w", err)
		t.loop.After(&t.clock, closeTimeout)
		t.loop.Input(&t.in)
	}
}

// finish closes a dead tunnel's socket in two steps. Closing it at once could throw away what the peer has not received: so our
// direction ends first, and the rest when the peer's has, or at the deadline.
func (t *tunnel) finish() {
	if t.err == nil {
		t.endIfDrained()
		return
	}
	if t.said && !t.mute && len(t.unsent) == 0 {
		t.mute = true
		_ = unix.Shutdown(t.fd, unix.SHUT_WR) // fails only on a dead connection
	}
	if t.mute && t.deaf {
		t.close()
	}
}

// close lets go of the socket. Streams whose peers had ended may go on for a while without it.
func (t *tunnel) close() {
	if !t.closed {
		t.closed, t.mute, t.deaf = true, true, true
		t.partial = nil
		t.dropUnsent()
		t.loop.Stop(&t.clock)
		t.loop.Release(t.fd)
	}
	if len(t.streams) == 0 && !t.gone {
		t.gone = true
		t.ended(t)
	}
}

// alertOf is how the end of the connection is told.
func alertOf(err error) record.Alert {
	var local *record.AlertError
	if errors.As(err, &local) {
		return local.Alert
	}
	return record.CloseNotify
}
