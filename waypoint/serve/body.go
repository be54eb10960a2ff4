package serve

import "github.com/tulle-mesh/tulle/waypoint/exchange"

// maxKept is how many bytes of a request's body are kept in case it has to be sent again.
const maxKept = 64 << 10

// body is a request's body: what came before there was a server for it, and what another try, or a copy, needs again.
type body struct {
	keep     bool // it may be needed again
	mirrors  []mirrored
	bytes    []byte
	total    uint64
	partial  bool // bytes isn't all that came
	ended    bool
	trailers []exchange.Field
	told     int // bytes of which the client knows that they are consumed
}

// add takes bytes in. What isn't needed any more is dropped by trim.
func (b *body) add(p []byte) {
	b.total += uint64(len(p))
	if !b.partial {
		b.bytes = append(b.bytes, p...)
	}
}

// trim drops what is kept, if it isn't needed again or has become too much.
func (b *body) trim() {
	if len(b.bytes) > 0 && (!b.keep || len(b.bytes) > maxKept) {
		b.bytes, b.partial = nil, true
	}
}

// again tells whether all of it can be sent once more.
func (b *body) again() bool { return !b.partial }
