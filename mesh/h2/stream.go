package h2

import "golang.org/x/net/http2/hpack"

// stream is one stream's state (RFC 9113 section 5.1). Those that are idle or closed have none.
type stream struct {
	id   uint32
	send sendWindow
	recv receiveWindow

	opened    bool // client: the final response's headers came
	answered  bool // server: headers were sent
	localEnd  bool // we sent END_STREAM
	remoteEnd bool // the peer did
	counted   bool // counts against the limit

	// The rings of schedule.go.
	wants      bool
	queued     bool
	heavy      bool // it sent much in its last turn
	prev, next *stream
}

// Open starts a stream with the request's headers (client). It fails with ErrGoAway, ErrMaxStreams or ErrHeaderLimit, each of
// which leaves the connection as it was.
func (c *Conn) Open(fields []hpack.HeaderField, end bool) (id uint32, err error) {
	switch {
	case c.ending():
		return 0, ErrGoAway
	case c.active >= c.Limit():
		return 0, ErrMaxStreams
	case listSize(fields) > c.peer.maxHeaderList:
		return 0, ErrHeaderLimit
	}
	s := c.newStream(c.nextID)
	c.nextID += 2
	c.appendHeaders(s.id, fields, end)
	if end {
		c.endLocal(s)
	}
	return s.id, nil
}

// Headers sends a response's headers, or trailers. All data before them must have been taken by AppendData. A peer that makes
// requests and never reads the answers is cut off.
func (c *Conn) Headers(id uint32, fields []hpack.HeaderField, end bool) error {
	s := c.streams[id]
	if s == nil || s.localEnd || c.err != nil {
		return errNoStream
	}
	if listSize(fields) > c.peer.maxHeaderList {
		return ErrHeaderLimit
	}
	s.answered = true
	c.appendHeaders(id, fields, end)
	if end {
		c.endLocal(s)
	}
	return c.reply()
}

// Refuse ends a stream by the peer's fault, and charges the peer as for the faults that Receive finds: with answer as its only
// headers, or, when that is nil, with a reset. Peers that make us do so often are cut off; Err tells it.
func (c *Conn) Refuse(id uint32, answer []hpack.HeaderField, code Code) {
	if c.err != nil || c.spend(costBadStream, "refused requests") != nil {
		return
	}
	if answer != nil && c.Headers(id, answer, true) == nil {
		return
	}
	if c.Reset(id, code); c.err == nil {
		_ = c.reply()
	}
}

// Finish ends our direction of the stream. All its data must have been taken by AppendData.
func (c *Conn) Finish(id uint32) {
	s := c.streams[id]
	if s == nil || s.localEnd || c.err != nil {
		return
	}
	c.control = appendFrameHeader(c.control, frameHeader{kind: frameData, flags: flagEndStream, stream: id})
	c.endLocal(s)
}

// Reset aborts the stream in both directions. Unread data counts as consumed. On a closed stream it does nothing.
func (c *Conn) Reset(id uint32, code Code) {
	s := c.streams[id]
	if s == nil || c.err != nil {
		return
	}
	if !s.localEnd || !s.remoteEnd {
		c.control = appendResetStream(c.control, id, code)
		c.remember(id)
	}
	c.drop(s)
}

// Consumed says that the reader has taken n bytes of the stream's data, so that the peer may send as many more. It is right to
// call it for a stream that has ended; for one that was reset it does nothing.
func (c *Conn) Consumed(id uint32, n int) {
	s := c.streams[id]
	if s == nil || c.err != nil {
		return
	}
	c.recv.consume(min(int64(n), s.recv.unread))
	s.recv.consume(int64(n))
	c.announce(s)
	c.settle(s)
}

// announce sends the WINDOW_UPDATEs that are due. s may be nil.
func (c *Conn) announce(s *stream) {
	if s != nil && !s.remoteEnd {
		if n := s.recv.update(); n > 0 {
			c.control = appendWindowUpdate(c.control, s.id, n)
		}
	}
	c.announceAll()
}

// announceAll sends the WINDOW_UPDATE of the connection, if it is due.
func (c *Conn) announceAll() {
	c.cfg.Reserve.lend(&c.recv)
	if n := c.recv.update(); n > 0 {
		c.control = appendWindowUpdate(c.control, 0, n)
	}
}

func (c *Conn) newStream(id uint32) *stream {
	s := &stream{id: id, send: sendWindow(c.peer.window), recv: newReceiveWindow(c.cfg.StreamWindow), counted: true}
	c.streams[id] = s
	c.active++
	return s
}

func (c *Conn) endLocal(s *stream) {
	s.localEnd = true
	s.wants = false
	c.ready.remove(s)
	c.settle(s)
}

// settle lets go of a stream that both sides have ended. Its state stays as long as there is data that nobody has read, which
// belongs to the connection's window.
func (c *Conn) settle(s *stream) {
	if !s.localEnd || !s.remoteEnd {
		return
	}
	c.uncount(s)
	if s.recv.unread == 0 {
		delete(c.streams, s.id)
	}
}

// drop forgets a stream at once.
func (c *Conn) drop(s *stream) {
	c.ready.remove(s)
	c.uncount(s)
	delete(c.streams, s.id)
	c.recv.consume(s.recv.unread)
	c.announce(nil)
}

func (c *Conn) uncount(s *stream) {
	if s.counted {
		s.counted = false
		c.active--
	}
}

func (c *Conn) remember(id uint32) {
	c.dropped[c.dropNext%rememberReset] = id
	c.dropNext++
}

func (c *Conn) remembers(id uint32) bool {
	for _, dropped := range c.dropped {
		if dropped == id {
			return true
		}
	}
	return false
}

// idle tells that nobody has opened the stream yet.
func (c *Conn) idle(id uint32) bool {
	if c.cfg.Role == Client {
		return id%2 == 0 || id >= c.nextID
	}
	return id%2 == 0 || id > c.seen
}
