package h2

import "encoding/binary"

// FrameHeaderLen is the number of bytes before a frame's payload (RFC 9113 section 4.1).
const FrameHeaderLen = 9

// preface is what a client sends first (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

type frameType uint8

const (
	frameData         frameType = 0x0
	frameHeaders      frameType = 0x1
	framePriority     frameType = 0x2
	frameResetStream  frameType = 0x3
	frameSettings     frameType = 0x4
	framePushPromise  frameType = 0x5
	framePing         frameType = 0x6
	frameGoAway       frameType = 0x7
	frameWindowUpdate frameType = 0x8
	frameContinuation frameType = 0x9
)

const (
	flagAck        = 0x1 // SETTINGS, PING
	flagEndStream  = 0x1 // DATA, HEADERS
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

type frameHeader struct {
	length uint32 // of the payload, 24 bits
	kind   frameType
	flags  uint8
	stream uint32 // 31 bits, the reserved bit is dropped
}

func (h frameHeader) has(flag uint8) bool { return h.flags&flag != 0 }

func parseFrameHeader(b *[FrameHeaderLen]byte) frameHeader {
	return frameHeader{
		length: uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]),
		kind:   frameType(b[3]),
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

func appendFrameHeader(dst []byte, h frameHeader) []byte {
	dst = append(dst, byte(h.length>>16), byte(h.length>>8), byte(h.length), byte(h.kind), h.flags)
	return binary.BigEndian.AppendUint32(dst, h.stream)
}

func appendWindowUpdate(dst []byte, stream, increment uint32) []byte {
	dst = appendFrameHeader(dst, frameHeader{length: 4, kind: frameWindowUpdate, stream: stream})
	return binary.BigEndian.AppendUint32(dst, increment)
}

func appendResetStream(dst []byte, stream uint32, code Code) []byte {
	dst = appendFrameHeader(dst, frameHeader{length: 4, kind: frameResetStream, stream: stream})
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

func appendPing(dst []byte, flags uint8, payload uint64) []byte {
	dst = appendFrameHeader(dst, frameHeader{length: 8, kind: framePing, flags: flags})
	return binary.BigEndian.AppendUint64(dst, payload)
}

func appendGoAway(dst []byte, last uint32, code Code, debug string) []byte {
	dst = appendFrameHeader(dst, frameHeader{length: uint32(8 + len(debug)), kind: frameGoAway})
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}

type setting struct {
	id    uint16
	value uint32
}

func appendSettings(dst []byte, settings ...setting) []byte {
	dst = appendFrameHeader(dst, frameHeader{length: uint32(6 * len(settings)), kind: frameSettings})
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, s.id)
		dst = binary.BigEndian.AppendUint32(dst, s.value)
	}
	return dst
}

// trim takes padding and priority fields off a HEADERS or DATA payload (RFC 9113 sections 6.1 and 6.2).
func trim(h frameHeader, p []byte) ([]byte, bool) {
	pad := 0
	if h.has(flagPadded) {
		if len(p) < 1 {
			return nil, false
		}
		pad, p = int(p[0]), p[1:]
	}
	if h.kind == frameHeaders && h.has(flagPriority) {
		if len(p) < 5 {
			return nil, false
		}
		p = p[5:]
	}
	if pad > len(p) {
		return nil, false
	}
	return p[:len(p)-pad], true
}
