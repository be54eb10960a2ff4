package h1

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"sync"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// buffers are for heads while they are made.
var buffers = sync.Pool{New: func() any { return &buffer{bytes: make([]byte, 0, 4<<10)} }}

type buffer struct {
	bytes []byte
	lines int // that bytes should have
}

func newBuffer() *buffer { return buffers.Get().(*buffer) }

func (b *buffer) free() {
	if cap(b.bytes) <= maxHead {
		b.bytes, b.lines = b.bytes[:0], 0
		buffers.Put(b)
	}
}

// add appends pieces of a line.
func (b *buffer) add(pieces ...string) {
	for _, piece := range pieces {
		b.bytes = append(b.bytes, piece...)
	}
}

func (b *buffer) endLine() {
	b.bytes = append(b.bytes, '\r', '\n')
	b.lines++
}

func (b *buffer) field(name, value string) {
	b.bytes = append(b.bytes, name...)
	b.bytes = append(b.bytes, ':', ' ')
	b.bytes = append(b.bytes, value...)
	b.endLine()
}

func (b *buffer) fields(fields []exchange.Field) {
	for i := range fields {
		b.field(fields[i].Name, fields[i].Value)
	}
}

func (b *buffer) number(name string, n int64) {
	b.add(name, ": ")
	b.bytes = strconv.AppendInt(b.bytes, n, 10)
	b.endLine()
}

var errInjected = errors.New("a line break within a field")

// whole ends a head, and makes sure that it has the lines that it should: a line break in a value that a filter has set, or that came by
// another codec, would be an attack.
func (b *buffer) whole() ([]byte, error) {
	b.endLine()
	lf, cr := bytes.Count(b.bytes, []byte("\n")), bytes.Count(b.bytes, []byte("\r"))
	if lf != b.lines || cr != b.lines || bytes.IndexByte(b.bytes, 0) >= 0 {
		return nil, errInjected
	}
	return b.bytes, nil
}

// statusLine begins an answer.
func (b *buffer) statusLine(status int) {
	b.add("HTTP/1.1 ")
	b.bytes = strconv.AppendInt(b.bytes, int64(status), 10)
	b.add(" ", http.StatusText(status))
	b.endLine()
}

// requestHead makes a request's head. It is of HTTP/1.1, whatever the request came by.
func (b *buffer) requestHead(req *exchange.Request) ([]byte, error) {
	b.add(req.Method, " ", req.Path, " HTTP/1.1")
	b.endLine()
	b.field("host", req.Authority)
	b.fields(req.Fields)
	switch {
	case req.Upgrade != "":
		b.field("connection", "upgrade")
		b.field("upgrade", req.Upgrade)
	case hasField(req.Fields, "te"):
		b.field("connection", "te")
	}
	switch {
	case req.Upgrade != "":
	case inChunks(req):
		b.field("transfer-encoding", "chunked")
	case req.Length > 0 || (req.Length == 0 && needsLength(req.Method)):
		b.number("content-length", req.Length)
	}
	return b.whole()
}

func hasField(fields []exchange.Field, name string) bool {
	_, found := exchange.Get(fields, name)
	return found
}

// inChunks tells whether a request's body goes in chunks: also one of known length that has trailers, for which there is no place otherwise.
func inChunks(req *exchange.Request) bool {
	return req.Length < 0 || (req.Length > 0 && hasField(req.Fields, "trailer"))
}

// needsLength tells whether a request of that method says so when it has no body (RFC 9110 section 8.6).
func needsLength(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// chunkHead is the line before a chunk.
func (b *buffer) chunkHead(n int) []byte {
	b.bytes = strconv.AppendInt(b.bytes, int64(n), 16)
	b.endLine()
	return b.bytes
}

// lastChunk ends a chunked body.
func (b *buffer) lastChunk(trailers []exchange.Field) ([]byte, error) {
	b.add("0")
	b.endLine()
	b.fields(trailers)
	return b.whole()
}

// writeChunk writes a chunk of a chunked body.
func writeChunk(to *pipe.Pipe, p []byte) {
	b := newBuffer()
	to.Write(b.chunkHead(len(p)))
	b.free()
	to.Write(p)
	to.Write(lineEnd)
}

var lineEnd = []byte("\r\n")

// writeLastChunk ends a chunked body.
func writeLastChunk(to *pipe.Pipe, trailers []exchange.Field) error {
	b := newBuffer()
	defer b.free()
	end, err := b.lastChunk(trailers)
	if err == nil {
		to.Write(end)
	}
	return err
}
