package node

import "fmt"

// pattern is an endless reader of bytes that never repeat within 16 MiB in step, so that a lost or doubled piece of a
// transfer shows. The zero value starts at the beginning.
type pattern struct {
	at uint64
}

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byteAt(p.at)
		p.at++
	}
	return len(b), nil
}

// byteAt is the pattern's byte at an offset: the offset's own bytes, one after the other, stirred.
func byteAt(at uint64) byte {
	word := at / 4 * 0x9e3779b1
	return byte(word >> (8 * (at % 4)))
}

// checker is a writer that compares what it gets with pattern, and fails at the first byte that differs.
type checker struct {
	size uint64 // so far
}

// Write fails at the first wrong byte and names its offset.
func (c *checker) Write(b []byte) (int, error) {
	for i, got := range b {
		if want := byteAt(c.size); got != want {
			return i, fmt.Errorf("byte %d is %#02x, want %#02x", c.size, got, want)
		}
		c.size++
	}
	return len(b), nil
}
