// Package trace is the W3C Trace Context of a connection (version 00), by which proxies on its way name it alike.
package trace

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// sampled is the flag that those who made the context record it.
const sampled = 1

// length of a traceparent header: 00-<32 hex>-<16 hex>-<2 hex>.
const length = 55

// Context is what a traceparent header says. The zero Context is none.
type Context struct {
	TraceID [16]byte
	SpanID  [8]byte
	Flags   byte
}

// Parse reads a traceparent header. It takes lower-case digits only, and neither id all zero.
func Parse(header string) (Context, bool) {
	if len(header) != length || header[:3] != "00-" || header[35] != '-' || header[52] != '-' || strings.ToLower(header) != header {
		return Context{}, false
	}
	var c Context
	var flags [1]byte
	for _, part := range []struct {
		into []byte
		hex  string
	}{{c.TraceID[:], header[3:35]}, {c.SpanID[:], header[36:52]}, {flags[:], header[53:]}} {
		if _, err := hex.Decode(part.into, []byte(part.hex)); err != nil {
			return Context{}, false
		}
	}
	c.Flags = flags[0]
	return c, c.TraceID != [16]byte{} && c.SpanID != [8]byte{}
}

// New begins a trace, not sampled.
func New() (c Context) {
	for c.TraceID == [16]byte{} || c.SpanID == [8]byte{} {
		_, _ = rand.Read(c.TraceID[:]) // never fails, see crypto/rand
		_, _ = rand.Read(c.SpanID[:])
	}
	return c
}

// Sampled tells whether those who made the context record it.
func (c Context) Sampled() bool { return c.Flags&sampled != 0 }

// WithSampled returns c with the mark that it is recorded.
func (c Context) WithSampled() Context {
	c.Flags |= sampled
	return c
}

// String returns the traceparent header; "" for the zero Context.
func (c Context) String() string {
	if c == (Context{}) {
		return ""
	}
	text := append(make([]byte, 0, length), "00-"...)
	text = append(hex.AppendEncode(text, c.TraceID[:]), '-')
	text = append(hex.AppendEncode(text, c.SpanID[:]), '-')
	return string(hex.AppendEncode(text, []byte{c.Flags}))
}
