package hbone

import "sync"

const chunkSize = 16 << 10

// chunk holds received bytes that the reader of a stream has not taken.
type chunk struct {
	next       *chunk
	start, end int
	bytes      [chunkSize]byte
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// backlog is a queue of received bytes. It copies them, so that small pieces don't pin large buffers; its length is bounded by
// the stream's window. A chunk belongs to the backlog until pop.
type backlog struct {
	first, last *chunk
}

func (b *backlog) empty() bool { return b.first == nil }

// size returns the number of bytes.
func (b *backlog) size() (n int) {
	for c := b.first; c != nil; c = c.next {
		n += c.end - c.start
	}
	return n
}

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

// pop hands the first chunk over to the caller, who must put it back into chunks.
func (b *backlog) pop() *chunk {
	c := b.first
	if b.first = c.next; b.first == nil {
		b.last = nil
	}
	return c
}

// read copies bytes out.
func (b *backlog) read(p []byte) (n int) {
	for n < len(p) && b.first != nil {
		moved := copy(p[n:], b.first.bytes[b.first.start:b.first.end])
		n += moved
		if b.first.start += moved; b.first.start == b.first.end {
			chunks.Put(b.pop())
		}
	}
	return n
}

func (b *backlog) clear() {
	for b.first != nil {
		chunks.Put(b.pop())
	}
}
