package h2

import "encoding/binary"

// maxGoAway bounds the debug data of a GOAWAY, which is kept until it is whole.
const maxGoAway = 16 << 10

// parser is where the received bytes stand: before a frame, within one that is kept until it is whole, or within one
// that is handed on or thrown away as it comes.
type parser struct {
	preface int // bytes of the client's preface that are still to come
	header  [FrameHeaderLen]byte
	have    int  // bytes of header
	within  bool // a frame's payload is being received
	frame   frameHeader

	payload []byte // what came of a frame that is kept whole
	skip    int    // bytes to throw away
	data    int    // bytes of DATA to hand on, with the padding while padded
	padded  bool   // the pad length of DATA is still to come

	stream uint32 // whose header block is under way; 0 means none
	end    bool   // END_STREAM was on its HEADERS
	block  []byte // what came of it
	blocks int    // in that many frames
}

// Receive takes received bytes until they make an event, and returns how many it took; call it again with the rest until all
// are taken. A None event without an error means that everything was taken. An error ends the connection: send the control
// bytes and close.
func (c *Conn) Receive(p []byte) (n int, ev Event, err error) {
	for c.err == nil {
		used, ev, err := c.step(p[n:])
		n += used
		if err != nil || ev.Kind != None || n == len(p) {
			return n, ev, err
		}
	}
	return n, Event{}, c.err
}

// step takes the preface, a frame's header, or what is there of a payload.
func (c *Conn) step(p []byte) (n int, ev Event, err error) {
	in := &c.in
	switch {
	case in.preface > 0:
		return c.receivePreface(p)
	case !in.within:
		n = copy(in.header[in.have:], p)
		if in.have += n; in.have < FrameHeaderLen {
			return n, Event{}, nil
		}
		in.have = 0
		in.frame = parseFrameHeader(&in.header)
		in.within = in.frame.length > 0
		ev, err = c.begin(in.frame)
	case in.data > 0:
		n, ev, err = c.receiveData(p)
	case in.skip > 0:
		n = min(len(p), in.skip)
		in.skip -= n
		in.within = in.skip > 0
	default:
		return c.keep(p)
	}
	return n, ev, err
}

// receivePreface checks the client's preface (RFC 9113 section 3.4).
func (c *Conn) receivePreface(p []byte) (int, Event, error) {
	n := min(len(p), c.in.preface)
	at := len(preface) - c.in.preface
	if string(p[:n]) != preface[at:at+n] {
		return n, Event{}, c.fail(ProtocolError, "the client does not begin as HTTP/2 does")
	}
	c.in.preface -= n
	return n, Event{}, nil
}

// begin checks what a frame's header alone tells, before any of its payload is kept.
func (c *Conn) begin(h frameHeader) (Event, error) {
	if err := c.checkFrame(h); err != nil {
		return Event{}, err
	}
	switch h.kind {
	case frameData:
		return c.beginData(h)
	case framePriority: // deprecated by section 5.3.2
		c.in.skip = int(h.length)
		if err := c.spend(costUnknown, "PRIORITY frames"); err != nil || h.length == 5 {
			return Event{}, err
		}
		return c.streamError(h.stream, FrameSizeError) // section 6.3
	case frameHeaders, frameResetStream, frameSettings, framePing, frameGoAway, frameWindowUpdate, frameContinuation:
		if h.length == 0 {
			return c.handle(h, nil)
		}
		return Event{}, nil
	}
	c.in.skip = int(h.length) // section 5.5
	return Event{}, c.spend(costUnknown, "unknown frames")
}

// checkFrame enforces what holds for a frame's place, stream and length.
func (c *Conn) checkFrame(h frameHeader) error {
	switch {
	case h.length > c.cfg.MaxFrameSize: // section 4.2
		return c.fail(FrameSizeError, "a frame longer than announced")
	case !c.settled && (h.kind != frameSettings || h.has(flagAck)): // section 3.4
		return c.fail(ProtocolError, "the first frame is not SETTINGS")
	case c.in.stream != 0 && (h.kind != frameContinuation || h.stream != c.in.stream): // section 6.10
		return c.fail(ProtocolError, "a header block is interrupted")
	case c.in.stream == 0 && h.kind == frameContinuation: // section 6.10
		return c.fail(ProtocolError, "CONTINUATION without HEADERS")
	case h.kind == framePushPromise: // section 8.4
		return c.fail(ProtocolError, "PUSH_PROMISE, which we do not allow")
	}
	switch h.kind {
	case frameData, frameHeaders, framePriority, frameResetStream:
		if h.stream == 0 {
			return c.fail(ProtocolError, "a stream's frame on stream 0")
		}
	case frameSettings, framePing, frameGoAway:
		if h.stream != 0 {
			return c.fail(ProtocolError, "a connection's frame on a stream")
		}
	}
	return c.checkLength(h)
}

func (c *Conn) checkLength(h frameHeader) error {
	switch wrong := "a frame of a wrong length"; h.kind {
	case framePing:
		if h.length != 8 { // section 6.7
			return c.fail(FrameSizeError, wrong)
		}
	case frameResetStream, frameWindowUpdate:
		if h.length != 4 { // sections 6.4 and 6.9
			return c.fail(FrameSizeError, wrong)
		}
	case frameSettings:
		if h.length > 6*maxSettings {
			return c.fail(EnhanceYourCalm, "too many entries in SETTINGS")
		}
	case frameGoAway:
		if h.length < 8 || h.length > maxGoAway { // section 6.8
			return c.fail(FrameSizeError, wrong)
		}
	case frameHeaders, frameContinuation:
		// A block is never longer than the list that it encodes, but for a change of the table's size, padding and priority.
		if len(c.in.block)+int(h.length) > int(c.cfg.MaxHeaderList)+512 {
			return c.fail(EnhanceYourCalm, "a header block longer than announced")
		}
	}
	return nil
}

// keep gathers a frame until it is whole. A frame that is there as a whole isn't copied.
func (c *Conn) keep(p []byte) (n int, ev Event, err error) {
	in := &c.in
	n = min(len(p), int(in.frame.length)-len(in.payload))
	whole := p[:n]
	if n < int(in.frame.length) {
		in.payload = append(in.payload, whole...)
		if len(in.payload) < int(in.frame.length) {
			return n, Event{}, nil
		}
		whole = in.payload
	}
	in.within = false
	in.payload = nil // frames seldom come in pieces, so the space isn't worth keeping
	ev, err = c.handle(in.frame, whole)
	return n, ev, err
}

// handle does what a whole frame says.
func (c *Conn) handle(h frameHeader, p []byte) (Event, error) {
	switch h.kind {
	case frameHeaders:
		block, ok := trim(h, p)
		if !ok { // section 6.2
			return Event{}, c.fail(ProtocolError, "HEADERS with more padding than payload")
		}
		c.in.end = h.has(flagEndStream)
		return c.receiveFragment(h, block)
	case frameContinuation:
		return c.receiveFragment(h, p)
	case frameResetStream:
		return c.receiveReset(h.stream, Code(binary.BigEndian.Uint32(p)))
	case frameSettings:
		return c.receiveSettings(h, p)
	case framePing:
		return c.receivePing(h, p)
	case frameGoAway:
		return c.receiveGoAway(binary.BigEndian.Uint32(p)&maxStreamID, Code(binary.BigEndian.Uint32(p[4:]))), c.spend(costGoAway, "GOAWAYs")
	}
	return c.receiveWindowUpdate(h.stream, binary.BigEndian.Uint32(p)&maxWindow)
}

// receiveFragment gathers a header block (section 4.3); one in a single frame isn't copied.
func (c *Conn) receiveFragment(h frameHeader, p []byte) (Event, error) {
	in := &c.in
	if in.blocks++; in.blocks > maxContinuations {
		return Event{}, c.fail(EnhanceYourCalm, "too many CONTINUATIONs")
	}
	if len(p) == 0 {
		if err := c.spend(costEmptyFrame, "empty header frames"); err != nil {
			return Event{}, err
		}
	}
	if !h.has(flagEndHeaders) {
		in.stream = h.stream
		in.block = append(in.block, p...)
		return Event{}, nil
	}
	if in.stream != 0 {
		p = append(in.block, p...)
	}
	in.stream, in.block, in.blocks = 0, nil, 0
	return c.receiveBlock(h.stream, p, in.end)
}

func (c *Conn) receiveReset(id uint32, code Code) (Event, error) {
	if c.idle(id) { // section 6.4
		return Event{}, c.fail(ProtocolError, "RST_STREAM on an idle stream")
	}
	s := c.streams[id]
	if s == nil {
		return Event{}, c.spend(costUnknown, "frames on closed streams")
	}
	if c.cfg.Role == Server && !s.answered {
		if err := c.spend(costReset, "streams that were reset at once"); err != nil {
			return Event{}, err
		}
	}
	ev := Event{Kind: EventReset, Stream: id, Code: code, EndStream: s.remoteEnd}
	if s.remoteEnd {
		c.endLocal(s) // what came before the end may still be read
	} else {
		c.drop(s)
	}
	return ev, nil
}

func (c *Conn) receivePing(h frameHeader, p []byte) (Event, error) {
	if h.has(flagAck) {
		return c.pong(p), c.spend(costUnknown, "PING answers")
	}
	if err := c.spend(costPing, "PINGs"); err != nil {
		return Event{}, err
	}
	c.control = appendPing(c.control, flagAck, binary.BigEndian.Uint64(p))
	return Event{}, c.reply()
}

// receiveGoAway forgets the streams that the peer will never process (section 6.8).
func (c *Conn) receiveGoAway(last uint32, code Code) Event {
	c.leaving = true
	if c.cfg.Role == Client {
		for id, s := range c.streams {
			if id > last {
				c.drop(s)
			}
		}
	}
	return Event{Kind: EventGoAway, Stream: last, Code: code}
}

func (c *Conn) receiveWindowUpdate(id, increment uint32) (Event, error) {
	if err := c.opened(); err != nil {
		return Event{}, err
	}
	if id == 0 {
		if increment == 0 { // section 6.9
			return Event{}, c.fail(ProtocolError, "WINDOW_UPDATE of 0")
		}
		if !c.send.grow(int64(increment)) { // section 6.9.1
			return Event{}, c.fail(FlowControlError, "the connection's window grew too large")
		}
		return Event{}, nil
	}
	if c.idle(id) { // section 5.1
		return Event{}, c.fail(ProtocolError, "WINDOW_UPDATE on an idle stream")
	}
	s := c.streams[id]
	switch {
	case s == nil:
		return Event{}, nil
	case increment == 0: // section 6.9
		return c.streamError(id, ProtocolError)
	case !s.send.grow(int64(increment)): // section 6.9.1
		return c.streamError(id, FlowControlError)
	}
	c.queue(s)
	return Event{}, nil
}

// streamError answers a broken rule that concerns one stream only (section 5.4.2). Peers that make us do so often are cut off.
func (c *Conn) streamError(id uint32, code Code) (Event, error) {
	c.control = appendResetStream(c.control, id, code)
	c.remember(id)
	ev := Event{}
	if s := c.streams[id]; s != nil {
		ev = Event{Kind: EventReset, Stream: id, Code: code, Local: true}
		c.drop(s)
	}
	if err := c.spend(costBadStream, "stream errors"); err != nil {
		return Event{}, err
	}
	return ev, c.reply()
}
