package hbone

import (
	"sync"

	"golang.org/x/sys/unix"
)

const chunkSize = 16 << 10

// chunk holds received bytes that a stream's application has not taken.
type chunk struct {
	next       *chunk
	start, end int
	bytes      [chunkSize]byte
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// backlog is a queue of received bytes. It copies them, so that small pieces don't pin large buffers; its length is bounded by
// the stream's window.
type backlog struct {
	first, last *chunk
}

func (b *backlog) empty() bool { return b.first == nil }

func (b *backlog) push(p []byte) {
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

// vectors appends the first pieces to v, as many as it has room for.
func (b *backlog) vectors(v []unix.Iovec) []unix.Iovec {
	for c := b.first; c != nil && len(v) < cap(v); c = c.next {
		v = append(v, vector(c.bytes[c.start:c.end]))
	}
	return v
}

// skip takes the first n bytes off.
func (b *backlog) skip(n int) {
	for n > 0 {
		moved := min(n, b.first.end-b.first.start)
		b.first.start += moved
		n -= moved
		if b.first.start == b.first.end {
			b.pop()
		}
	}
}

func (b *backlog) pop() {
	c := b.first
	if b.first = c.next; b.first == nil {
		b.last = nil
	}
	chunks.Put(c)
}

func (b *backlog) clear() {
	for b.first != nil {
		b.pop()
	}
}
