package record

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

// maxFed is how many bytes from the peer are held for crypto/tls: two records of the longest kind, or any usual flight.
const maxFed = 2 * MaxRecord

var errPeerEnded = errors.New("peer ended the connection within the handshake")

// wire is the connection that crypto/tls sees. It hands out no byte beyond the record that is being read, so that whatever
// follows the handshake is still here at its end.
type wire struct {
	notify func()

	mu      sync.Mutex
	changed sync.Cond
	in      []byte // fed and not yet read
	left    int    // bytes of the record being read that are still to be handed out
	out     []byte // written and not yet taken
	refused bool   // feed had no room for all
	fedEnd  bool
	closed  bool
}

func newWire(notify func()) *wire {
	w := &wire{notify: notify}
	w.changed.L = &w.mu
	return w
}

func (w *wire) feed(p []byte) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.fedEnd {
		return 0
	}
	n := min(len(p), maxFed-len(w.in))
	w.in = append(w.in, p[:n]...)
	w.refused = n < len(p)
	w.changed.Signal()
	return n
}

func (w *wire) feedEnd() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fedEnd = true
	w.changed.Signal()
}

func (w *wire) output() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.out
	w.out = nil
	return out
}

// end returns what was fed and not read.
func (w *wire) end() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	rest := append([]byte(nil), w.in...) // w.in is the end of something longer
	w.in = nil
	return rest
}

func (w *wire) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changed.Signal()
}

// Read is called by crypto/tls only.
func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed && !w.readable() {
		if w.fedEnd {
			return 0, errPeerEnded
		}
		w.wait()
	}
	if w.closed {
		return 0, net.ErrClosed
	}
	if w.left == 0 {
		w.left = HeaderLen + int(binary.BigEndian.Uint16(w.in[HeaderLen-2:]))
	}
	n := copy(p, w.in[:min(w.left, len(w.in))])
	w.in, w.left = w.in[n:], w.left-n
	return n, nil
}

func (w *wire) readable() bool { return w.left > 0 && len(w.in) > 0 || len(w.in) >= HeaderLen }

// wait waits for a change, after telling the driver if that needs something of it. That crypto/tls waits for the peer is the
// end of a flight, so that one call does for the whole of it.
func (w *wire) wait() {
	if len(w.out) > 0 || w.refused {
		w.refused = false
		w.mu.Unlock()
		w.notify()
		w.mu.Lock()
		if w.closed || w.fedEnd || w.readable() {
			return
		}
	}
	w.changed.Wait()
}

// Write is called by crypto/tls only.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, net.ErrClosed
	}
	w.out = append(w.out, p...)
	return len(p), nil
}

func (w *wire) Close() error {
	w.abort()
	return nil
}

// The rest of net.Conn: the driver has the real addresses and the deadline.

func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
