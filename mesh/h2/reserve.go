package h2

// Reserve is memory for what streams hold without reading it. Without one, four streams that are stalled with a full window each
// would fill their connection's, and stop all others on it. So what is unread beyond half of a connection's window is lent from
// the reserve, and the window stays half open, until the reserve is used up. Connections of one thread share a reserve; none gets
// more than it leaves for the others.
type Reserve struct {
	free int64
}

// NewReserve makes a reserve of so many bytes.
func NewReserve(bytes int64) *Reserve { return &Reserve{free: bytes} }

// standardReserve is what a connection has that was given none, as a multiple of its window.
const standardReserve = 8

// lend brings what is lent to w into line with what is unread.
func (r *Reserve) lend(w *receiveWindow) {
	change := max(0, w.unread-(w.size-w.lent)/2) - w.lent
	if change > 0 {
		change = min(change, max(0, (r.free-w.lent)/2))
	}
	w.size += change
	w.credit += change
	w.lent += change
	r.free -= change
}

// settle takes back all that was lent to a connection that is over.
func (r *Reserve) settle(w *receiveWindow) {
	r.free += w.lent
	w.size -= w.lent
	w.credit -= w.lent
	w.lent = 0
}
