package secure

import (
	"io"
	"net"
	"sync"
	"time"
)

// maxFed is how many bytes from the server are held for the handshake.
const maxFed = 64 << 10

// errLater says that what is to be read isn't there yet. Such an error crypto/tls takes for one that passes.
var errLater net.Error = later{}

type later struct{}

func (later) Error() string   { return "nothing to read yet" }
func (later) Timeout() bool   { return true }
func (later) Temporary() bool { return true }

// wire is the connection that crypto/tls sees. Until it is calmed it is shared with the goroutine of the handshake, and Read waits; then it belongs
// to the loop alone.
type wire struct {
	notify func()

	mu      sync.Mutex
	changed sync.Cond
	in      []byte
	out     []byte
	refused bool // feed had no room for all
	ended   bool // the server sends no more
	closed  bool
	write   func([]byte) // set by calm
}

func newWire(notify func()) *wire {
	w := &wire{notify: notify}
	w.changed.L = &w.mu
	return w
}

// feed takes what came, or as much as there is room for.
func (w *wire) feed(p []byte, end bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(p), max(0, maxFed-len(w.in)))
	w.in = append(w.in, p[:n]...)
	w.refused = n < len(p)
	w.ended = end && !w.refused
	w.changed.Signal()
	return n
}

// output takes what is to be sent.
func (w *wire) output() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.out
	w.out = nil
	return out
}

// calm has Read not wait any more, and what is written passed on at once.
func (w *wire) calm(write func([]byte)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write = write
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.write == nil && len(w.in) == 0 && !w.ended && !w.closed {
		w.changed.Wait()
	}
	switch {
	case w.closed:
		return 0, net.ErrClosed
	case len(w.in) == 0 && w.ended:
		return 0, io.EOF
	case len(w.in) == 0:
		return 0, errLater
	}
	n := copy(p, w.in)
	if w.in = w.in[n:]; len(w.in) == 0 {
		w.in = nil
	}
	if w.refused {
		w.refused = false
		w.notify()
	}
	return n, nil
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return 0, net.ErrClosed
	case w.write != nil:
		w.write(p)
	default:
		w.out = append(w.out, p...)
		w.notify()
	}
	return len(p), nil
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changed.Signal()
	return nil
}

// The rest of net.Conn: the loop has the real addresses and the deadlines.

func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
