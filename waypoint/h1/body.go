package h1

import (
	"bytes"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// maxChunkLine is how long the line before a chunk may be, with its extensions, which mean nothing to anybody.
const maxChunkLine = 256

// maxExtensions is how many bytes of extensions a body may have in all.
const maxExtensions = 16 << 10

type kind uint8

const (
	byLength kind = iota
	chunked
	untilClose
	raw // no message: what an upgraded connection carries
)

// body is where the reading of a body stands.
type body struct {
	kind       kind
	done       bool
	left       int64 // of the body by length, or of the chunk
	begun      bool  // the first chunk has
	last       bool  // trailers are to come
	extensions int
	trailers   []exchange.Field
}

func newBody(length int64, isChunked bool) body {
	switch {
	case isChunked:
		return body{kind: chunked}
	case length >= 0:
		return body{kind: byLength, left: length, done: length == 0}
	}
	return body{kind: untilClose}
}

// next takes n bytes of p, of which content is part, at most max bytes. When it takes none and isn't done, it needs more, or max was 0.
func (b *body) next(p []byte, max int) (n int, content []byte, err error) {
	for !b.done {
		switch {
		case b.kind == untilClose || b.kind == raw:
			size := min(len(p), max)
			return size, p[:size], nil
		case b.left > 0:
			size := int(min(int64(min(len(p)-n, max)), b.left))
			content = p[n : n+size]
			if b.left -= int64(size); b.left == 0 && b.kind == byLength {
				b.done = true
			}
			return n + size, content, nil
		case b.last:
			taken, err := b.endTrailers(p[n:])
			return n + taken, nil, err
		}
		taken, err := b.chunkLine(p[n:])
		if err != nil || taken == 0 {
			return n, nil, err
		}
		n += taken
	}
	return n, nil, nil
}

// chunkLine reads the line before a chunk, with the end of the chunk before it (RFC 9112 section 7.1).
func (b *body) chunkLine(p []byte) (n int, err error) {
	if b.begun {
		if len(p) > 0 && p[0] != '\r' || len(p) > 1 && p[1] != '\n' {
			return 0, malformed("a chunk is longer than it says")
		}
		if n = 2; len(p) < n {
			return 0, nil
		}
	}
	end := bytes.IndexByte(p[n:], '\n')
	if end < 0 || end > maxChunkLine {
		if len(p)-n > maxChunkLine {
			return 0, malformed("the line before a chunk is too long")
		}
		return 0, nil
	}
	line := p[n : n+end]
	n += end + 1
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return 0, malformed("the line before a chunk doesn't end in CRLF")
	}
	digits, err := b.chunkSize(line[:len(line)-1])
	if err != nil {
		return 0, err
	}
	if b.extensions += len(line) - 1 - digits; b.extensions > maxExtensions {
		return 0, malformed("too many chunk extensions")
	}
	b.begun = true
	b.last = b.left == 0
	return n, nil
}

// chunkSize reads the number that a line begins with, and returns of how many digits it is.
func (b *body) chunkSize(line []byte) (digits int, err error) {
	var size int64
	for _, c := range line {
		v := hexDigit(c)
		if v < 0 {
			break
		}
		if digits++; digits > 15 {
			return 0, malformed("a chunk of an impossible size")
		}
		size = size<<4 | int64(v)
	}
	rest := line[digits:]
	if digits == 0 || (len(rest) > 0 && rest[0] != ';') || !exchange.ValidValue(text(rest)) {
		return 0, malformed("a chunk without a size")
	}
	b.left = size
	return digits, nil
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// endTrailers reads the trailers and the empty line after them (RFC 9112 section 7.1.2).
func (b *body) endTrailers(p []byte) (n int, err error) {
	switch {
	case len(p) >= 2 && p[0] == '\r' && p[1] == '\n':
		b.done = true
		return 2, nil
	case headEnd(p, 0) > maxTrailers || (headEnd(p, 0) == 0 && len(p) > maxTrailers):
		return 0, malformed("the trailers are too long")
	case bareLine(p, 0):
		return 0, malformed("a line doesn't end in CRLF")
	}
	if n = headEnd(p, 0); n == 0 {
		return 0, nil
	}
	var f framing
	lines := append([]byte(nil), p[:n-2]...)
	if b.trailers, err = parseFields(lines, nil, &f); err != nil {
		return 0, err
	}
	if f.length >= 0 || f.chunked || f.hosts > 0 { // RFC 9110 section 6.5.1
		return 0, malformed("a trailer that only a head may have")
	}
	b.done = true
	return n, nil
}
