package hbone

import (
	"crypto/rand"
	"encoding/hex"
)

// TraceParent is a traceparent header: 00-<32 hex>-<16 hex>-<2 hex>. The peer gets it with the request, so that one
// that traces can name the connection as others on its way do.
type TraceParent string

const traceParentLen = 55

// parseTraceParent takes the version 00 form with lower-case digits only, and neither id all zero.
func parseTraceParent(s string) (TraceParent, bool) {
	if len(s) != traceParentLen || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return "", false
	}
	trace, parent := s[3:35], s[36:52]
	if !lowerHex(trace) || !lowerHex(parent) || !lowerHex(s[53:]) || allZero(trace) || allZero(parent) {
		return "", false
	}
	return TraceParent(s), true
}

// NewTraceParent makes one of random ids, not sampled.
func NewTraceParent() TraceParent {
	var id [24]byte
	for allZeroBytes(id[:16]) || allZeroBytes(id[16:]) {
		_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	}
	out := make([]byte, 0, traceParentLen)
	out = append(out, "00-"...)
	out = hex.AppendEncode(out, id[:16])
	out = append(out, '-')
	out = hex.AppendEncode(out, id[16:])
	return TraceParent(append(out, "-00"...))
}

// Sampled returns t with the mark that those who made it record it.
func (t TraceParent) Sampled() TraceParent { return t[:len(t)-1] + "1" }

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func allZero(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}

func allZeroBytes(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
