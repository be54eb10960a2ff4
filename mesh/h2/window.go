package h2

const (
	maxWindow     = 1<<31 - 1 // RFC 9113 section 6.9.1
	initialWindow = 65535     // RFC 9113 section 6.9.2: of the connection, and of streams before SETTINGS
	updateFloor   = 16 << 10  // smaller pieces are not worth a WINDOW_UPDATE
)

// sendWindow is what we may still send. It may be negative after the peer shrank it (RFC 9113 section 6.9.2).
type sendWindow int64

// grow adds a WINDOW_UPDATE or a change of settings, and tells whether the window is still a legal one.
func (w *sendWindow) grow(n int64) bool {
	*w += sendWindow(n)
	return *w <= maxWindow
}

// receiveWindow is what the peer may still send, and what became of what it sent:
// open + unread + credit is the window's size, except that settings may change size.
type receiveWindow struct {
	size   int64 // bytes that may be ahead of the reader
	open   int64 // bytes that the peer may send now
	unread int64 // bytes that came and were not consumed
	credit int64 // bytes that were consumed and not announced to the peer
	lent   int64 // of size: what a Reserve has added for the unread, see reserve.go
}

func newReceiveWindow(size uint32) receiveWindow {
	return receiveWindow{size: int64(size), open: int64(size)}
}

// take counts n arriving bytes, and tells whether the peer was allowed to send them.
func (w *receiveWindow) take(n int64) bool {
	w.open -= n
	w.unread += n
	return w.open >= 0
}

// consume counts n bytes that the reader has taken.
func (w *receiveWindow) consume(n int64) {
	n = min(n, w.unread)
	w.unread -= n
	w.credit += n
}

// update returns the increment to announce now, or 0. It waits for half the window, or, as bytes that others don't read may
// hold most of it, for as much as the peer has left.
func (w *receiveWindow) update() uint32 {
	if w.credit < min(updateFloor, w.size/2) || (w.credit < w.size/2 && w.credit < w.open) {
		return 0
	}
	n := w.credit
	w.credit = 0
	w.open += n
	return uint32(n)
}
