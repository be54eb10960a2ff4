package hbone

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
)

const (
	slots     = loop.BufferSize/record.SlotLen - 2 // of data; control frames and an alert may still follow
	fullBatch = slots / 2 * record.SlotLen         // sealed bytes at which a batch is sent; what was begun then still fits
	pointless = 2 << 10                            // bytes left in a record that aren't worth a frame
)

// batch lays out frames in TLS records, in place: payload is read from an application's socket straight to where it stays
// while it is sealed and sent. It uses a whole buffer of a loop.
type batch struct {
	writer *record.Writer
	space  []byte // a buffer of a loop
	sealed int    // bytes of whole records, at the start of space
	plain  int    // bytes of plaintext in the record that is open behind them
}

// at is where the next byte of plaintext goes.
func (b *batch) at() int { return b.sealed + record.HeaderLen + b.plain }

// left is how many bytes of plaintext the open record still takes.
func (b *batch) left() int { return record.MaxPlaintext - b.plain }

// full tells that the batch has to be sent before more is put into it.
func (b *batch) full() bool { return b.sealed >= fullBatch }

// seal ends the open record.
func (b *batch) seal() {
	if b.plain > 0 {
		b.sealed += b.writer.Seal(b.space[b.sealed:], b.plain)
		b.plain = 0
	}
}

// control adds the frames that core has to say.
func (b *batch) control(core *h2.Conn) {
	for rest := core.Control(); len(rest) > 0; rest = core.Control() {
		n := copy(b.space[b.at():b.at()+b.left()], rest)
		if core.Said(n); n == 0 {
			return
		}
		b.plain += n
		if b.left() == 0 {
			b.seal()
		}
		if b.sealed >= (slots+1)*record.SlotLen {
			return // the rest goes with the next batch
		}
	}
}

// rekey ends the open record and changes the keys for all that follow (RFC 8446 section 4.6.3).
func (b *batch) rekey() error {
	b.seal()
	p, err := b.writer.AppendKeyUpdate(b.space[:b.sealed], false)
	b.sealed = len(p)
	return err
}

// end adds the connection's last record.
func (b *batch) end(alert record.Alert) {
	b.seal()
	b.sealed = len(b.writer.AppendAlert(b.space[:b.sealed], alert))
}

// receive reads from fd into the place of a DATA frame's payload, at most budget bytes, and adds the frame when something
// came. all tells that fd had as much as was asked for, and may have more.
func (b *batch) receive(fd int, core *h2.Conn, id uint32, budget int) (n int, all bool, err error) {
	if b.left() < pointless {
		b.seal()
	}
	var vectors [slots + 1]unix.Iovec
	v, asked := b.payload(vectors[:0], budget)
	if n, err = loop.ReadVector(fd, v); n <= 0 {
		return 0, false, err
	}
	b.frame(core, id, n, false)
	return n, n == asked, nil
}

// put adds a DATA frame with the first bytes of q, at most budget, and tells how many. With last, it ends the stream if that is all.
func (b *batch) put(q *loop.Backlog, core *h2.Conn, id uint32, budget int, last bool) int {
	if b.left() < pointless {
		b.seal()
	}
	var vectors [slots + 1]unix.Iovec
	v, size := b.payload(vectors[:0], min(budget, q.Len()))
	for _, piece := range v {
		q.Read(bytesOf(piece))
	}
	b.frame(core, id, size, last && q.Len() == 0)
	return size
}

// frame puts the header before a DATA frame's payload of n bytes, which is in its place, and seals the records that it fills.
func (b *batch) frame(core *h2.Conn, id uint32, n int, end bool) {
	at := b.at()
	core.AppendData(b.space[at:at:at+h2.FrameHeaderLen], id, n, end)
	first := min(n, b.left()-h2.FrameHeaderLen)
	b.plain += h2.FrameHeaderLen + first
	for rest := n - first; rest > 0; rest -= b.plain {
		b.seal()
		b.plain = min(rest, record.MaxPlaintext)
	}
	if b.left() == 0 {
		b.seal()
	}
}

// payload returns where the payload of the next frame goes: behind the frame's header in the open record, and in the records
// that follow.
func (b *batch) payload(v []unix.Iovec, budget int) (_ []unix.Iovec, size int) {
	n := min(budget, b.left()-h2.FrameHeaderLen)
	v = append(v, vector(b.space[b.at()+h2.FrameHeaderLen:][:n]))
	size = n
	for next := b.sealed + record.SlotLen; size < budget && next < slots*record.SlotLen; next += record.SlotLen {
		n = min(budget-size, record.MaxPlaintext)
		v = append(v, vector(b.space[next+record.HeaderLen:][:n]))
		size += n
	}
	return v, size
}

func vector(p []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return v
}

func bytesOf(v unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }
