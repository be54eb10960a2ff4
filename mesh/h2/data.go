package h2

// beginData admits a DATA frame to the windows (RFC 9113 section 6.9): its whole length counts at once.
func (c *Conn) beginData(h frameHeader) (Event, error) {
	length := int64(h.length)
	if !c.recv.take(length) {
		return Event{}, c.fail(FlowControlError, "DATA beyond the connection's window")
	}
	c.announceAll()
	s := c.streams[h.stream]
	switch {
	case s == nil && c.idle(h.stream): // section 5.1
		return Event{}, c.fail(ProtocolError, "DATA on an idle stream")
	case s == nil:
		c.refuseData(length)
		if c.remembers(h.stream) {
			return Event{}, c.spend(costUnknown, "frames on closed streams")
		}
		return c.streamError(h.stream, StreamClosed)
	case s.remoteEnd: // section 5.1
		c.refuseData(length)
		return c.streamError(h.stream, StreamClosed)
	case c.cfg.Role == Client && !s.opened: // section 8.1
		c.refuseData(length)
		return c.streamError(h.stream, ProtocolError)
	case h.has(flagPadded) && length == 0: // section 6.1
		return Event{}, c.fail(FrameSizeError, "padded DATA without a pad length")
	case !s.recv.take(length):
		s.recv.unread -= length // refuseData gives it back
		c.refuseData(length)
		return c.streamError(h.stream, FlowControlError)
	case length == 0:
		return c.endOfData(s)
	}
	c.in.data = int(length)
	c.in.padded = h.has(flagPadded)
	return Event{}, nil
}

// refuseData throws a DATA frame's payload away; the connection's window gets it back.
func (c *Conn) refuseData(length int64) {
	c.in.skip = int(length)
	c.recv.consume(length)
	c.announce(nil)
}

// receiveData hands on what is there of a DATA frame.
func (c *Conn) receiveData(p []byte) (n int, ev Event, err error) {
	in := &c.in
	s := c.streams[in.frame.stream] // nil when we reset it within the frame
	if in.padded {
		return c.receivePadLength(s, p)
	}
	n = min(len(p), in.data)
	if in.data -= n; in.data == 0 {
		in.within = in.skip > 0
	}
	if s == nil || n == 0 {
		return n, Event{}, nil
	}
	ev = Event{Kind: EventData, Stream: s.id, Data: p[:n]}
	if in.data == 0 && in.frame.has(flagEndStream) {
		ev.EndStream = true
		s.remoteEnd = true
		c.settle(s)
	}
	return n, ev, nil
}

// receivePadLength takes padding out of what is handed on. It counts as consumed at once.
func (c *Conn) receivePadLength(s *stream, p []byte) (n int, ev Event, err error) {
	in := &c.in
	if len(p) == 0 {
		return 0, Event{}, nil
	}
	pad := int(p[0])
	if pad >= in.data { // section 6.1
		return 1, Event{}, c.fail(ProtocolError, "DATA with more padding than payload")
	}
	in.padded = false
	in.data -= pad + 1
	in.skip = pad
	c.Consumed(in.frame.stream, pad+1)
	if in.data > 0 {
		return 1, Event{}, nil
	}
	in.within = pad > 0
	if s == nil {
		return 1, Event{}, nil
	}
	ev, err = c.endOfData(s)
	return 1, ev, err
}

// endOfData handles a DATA frame that carries nothing.
func (c *Conn) endOfData(s *stream) (Event, error) {
	if !c.in.frame.has(flagEndStream) {
		return Event{}, c.spend(costEmptyFrame, "empty DATA frames")
	}
	s.remoteEnd = true
	c.settle(s)
	return Event{Kind: EventData, Stream: s.id, EndStream: true}, nil
}
