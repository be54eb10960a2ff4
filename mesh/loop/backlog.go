package loop

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const chunkSize = 16 << 10

// chunk is a part of a Backlog.
type chunk struct {
	next       *chunk
	start, end int
	bytes      [chunkSize]byte
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// Backlog is a queue of bytes that wait for a socket, or whoever else takes no more for now. It copies them, so that small pieces don't pin
// large buffers. Its owner bounds its length. The zero value is empty, and owns nothing.
type Backlog struct {
	first, last *chunk
	size        int
}

// Len returns how many bytes wait.
func (b *Backlog) Len() int { return b.size }

// Push adds bytes at the end.
func (b *Backlog) Push(p []byte) {
	b.size += len(p)
	for len(p) > 0 {
		if b.last == nil || b.last.end == chunkSize {
			c := chunks.Get().(*chunk)
			c.next, c.start, c.end = nil, 0, 0
			if b.last == nil {
				b.first = c
			} else {
				b.last.next = c
			}
			b.last = c
		}
		n := copy(b.last.bytes[b.last.end:], p)
		b.last.end += n
		p = p[n:]
	}
}

// First returns the first piece, nil if there is none. It is valid until the backlog changes.
func (b *Backlog) First() []byte {
	if b.first == nil {
		return nil
	}
	return b.first.bytes[b.first.start:b.first.end]
}

// Vectors appends the first pieces to v, as many as it has room for. They are valid until the backlog changes.
func (b *Backlog) Vectors(v []unix.Iovec) []unix.Iovec {
	for c := b.first; c != nil && len(v) < cap(v); c = c.next {
		piece := unix.Iovec{Base: unsafe.SliceData(c.bytes[c.start:])}
		piece.SetLen(c.end - c.start)
		v = append(v, piece)
	}
	return v
}

// Skip takes the first n bytes off.
func (b *Backlog) Skip(n int) {
	b.size -= n
	for n > 0 {
		moved := min(n, b.first.end-b.first.start)
		b.first.start += moved
		n -= moved
		if b.first.start == b.first.end {
			b.pop()
		}
	}
}

// Read moves the first bytes to p, as many as there are and fit.
func (b *Backlog) Read(p []byte) (n int) {
	for n < len(p) && b.first != nil {
		moved := copy(p[n:], b.First())
		n += moved
		b.Skip(moved)
	}
	return n
}

func (b *Backlog) pop() {
	c := b.first
	if b.first = c.next; b.first == nil {
		b.last = nil
	}
	chunks.Put(c)
}

// Clear throws all of it away.
func (b *Backlog) Clear() {
	for b.first != nil {
		b.pop()
	}
	b.size = 0
}
