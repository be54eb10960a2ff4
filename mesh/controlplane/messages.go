package controlplane

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The parts of HTTP/2 (RFC 9113, section 4.1 and 6.1) and of gRPC's messages that tell where one begins and ends.
const (
	frameHeader  = 9
	messageHead  = 5 // whether it is compressed, and its length
	frameData    = 0
	frameHeaders = 1
	frameReset   = 3
	flagEnd      = 0x1 // of the stream
	flagPadded   = 0x8
)

// messages follows the frames of a connection to the messages on its streams. Frames that are none are for gRPC to find.
type messages struct {
	header  [frameHeader]byte
	have    int // bytes of the header
	left    int // bytes of the frame's payload that are still to come
	padding int // the last bytes of them that mean nothing; -1 until their number is read
	partial map[uint32]*message
}

// message is one that has begun.
type message struct {
	begun time.Time
	head  [messageHead]byte
	got   int // bytes, the head's included
}

// due is when the message is late.
func (m *message) due() time.Time {
	return m.begun.Add(messageGrace + time.Duration(m.got)*time.Second/paceBytes)
}

// size returns how long the message is in all, as far as is known.
func (m *message) size() int {
	if m.got < messageHead {
		return messageHead
	}
	return messageHead + int(binary.BigEndian.Uint32(m.head[1:]))
}

// follow takes the next bytes of the connection. The error is that too many messages have begun.
func (f *messages) follow(p []byte, now time.Time) error {
	for len(p) > 0 {
		if f.left == 0 {
			n := copy(f.header[f.have:], p)
			f.have, p = f.have+n, p[n:]
			if f.have == frameHeader {
				f.begin()
			}
			continue
		}
		n := min(f.left, len(p))
		if err := f.payload(p[:n], now); err != nil {
			return err
		}
		if p = p[n:]; f.left == 0 {
			f.end()
		}
	}
	return nil
}

func (f *messages) stream() uint32 { return binary.BigEndian.Uint32(f.header[5:]) &^ (1 << 31) }

// begin reads a frame's header.
func (f *messages) begin() {
	f.have = 0
	f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
	f.padding = 0
	if f.header[3] == frameData && f.header[4]&flagPadded != 0 {
		f.padding = -1
	}
	if f.left == 0 {
		f.end()
	}
}

// end forgets the message of a stream that has ended, whole or not.
func (f *messages) end() {
	kind, last := f.header[3], f.header[4]&flagEnd != 0
	if kind == frameReset || last && (kind == frameData || kind == frameHeaders) {
		delete(f.partial, f.stream())
	}
}

// payload takes bytes of a frame.
func (f *messages) payload(p []byte, now time.Time) error {
	before := f.left
	f.left -= len(p)
	if f.header[3] != frameData {
		return nil
	}
	if f.padding < 0 {
		f.padding = int(p[0])
		p, before = p[1:], before-1
	}
	return f.content(p[:min(len(p), max(0, before-f.padding))], now)
}

// content takes bytes of messages.
func (f *messages) content(p []byte, now time.Time) error {
	id := f.stream()
	for len(p) > 0 {
		m := f.partial[id]
		if m == nil {
			if len(f.partial) >= maxPartial {
				return fmt.Errorf("the control plane has begun %d messages and ended none", maxPartial)
			}
			if f.partial == nil {
				f.partial = map[uint32]*message{}
			}
			m = &message{begun: now}
			f.partial[id] = m
		}
		var n int
		if m.got < messageHead {
			n = copy(m.head[m.got:], p)
		} else {
			n = min(len(p), m.size()-m.got)
		}
		m.got, p = m.got+n, p[n:]
		if m.got >= messageHead && m.got == m.size() {
			delete(f.partial, id)
		}
	}
	return nil
}
