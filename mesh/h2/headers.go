package h2

import (
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
)

// collect takes a decoded field. Past the limit it only counts, as the decoder's state has to stay right.
func (c *Conn) collect(f hpack.HeaderField) {
	c.listSize += f.Size()
	if c.listSize <= c.cfg.MaxHeaderList {
		c.fields = append(c.fields, f)
	}
}

// decode turns a whole header block into c.fields.
func (c *Conn) decode(block []byte) error {
	clear(c.fields)
	c.fields = c.fields[:0]
	c.listSize = 0
	if _, err := c.decoder.Write(block); err != nil { // RFC 9113 section 4.3
		return c.fail(CompressionError, "header block: "+err.Error())
	}
	if err := c.decoder.Close(); err != nil {
		return c.fail(CompressionError, "header block: "+err.Error())
	}
	if c.listSize > bomb*c.cfg.MaxHeaderList {
		return c.fail(EnhanceYourCalm, "headers that unpack to many times what we announced")
	}
	return nil
}

// receiveBlock handles a complete header block of HEADERS and its CONTINUATIONs.
func (c *Conn) receiveBlock(id uint32, block []byte, end bool) (Event, error) {
	if err := c.decode(block); err != nil {
		return Event{}, err
	}
	s := c.streams[id]
	switch {
	case s == nil && c.cfg.Role == Server && id%2 == 1 && id > c.seen:
		return c.receiveRequest(id, end)
	case s == nil && c.idle(id): // section 5.1.1
		return Event{}, c.fail(ProtocolError, "HEADERS on a stream that the peer must not open")
	case s == nil && c.remembers(id):
		return Event{}, c.spend(costUnknown, "frames on closed streams") // may have been under way when we reset it
	case s == nil || s.remoteEnd: // section 5.1
		return Event{}, c.fail(StreamClosed, "HEADERS on a closed stream")
	case c.listSize > c.cfg.MaxHeaderList:
		return c.streamError(id, EnhanceYourCalm)
	case c.cfg.Role == Server || s.opened:
		if !end || !validRegular(c.fields) { // section 8.1
			return c.streamError(id, ProtocolError)
		}
	default:
		status, ok := validResponse(c.fields)
		if !ok || (end && status[0] == '1') { // section 8.1
			return c.streamError(id, ProtocolError)
		}
		if s.opened = status[0] != '1'; !s.opened {
			if err := c.spend(costInterim, "interim answers"); err != nil {
				return Event{}, err
			}
		}
	}
	if end {
		s.remoteEnd = true
		c.settle(s)
	}
	return Event{Kind: EventHeaders, Stream: id, Fields: c.fields, EndStream: end}, nil
}

func (c *Conn) receiveRequest(id uint32, end bool) (Event, error) {
	c.seen = id
	if c.goneAway { // section 6.8: above the last stream that we named
		c.remember(id)
		return Event{}, c.spend(costUnknown, "streams after GOAWAY")
	}
	c.lastPeer = id
	switch {
	case c.active >= int(c.cfg.MaxStreams): // section 5.1.2
		return c.streamError(id, RefusedStream)
	case c.listSize > c.cfg.MaxHeaderList:
		return c.streamError(id, EnhanceYourCalm)
	case !validRequest(c.fields, c.cfg.ExtendedConnect):
		return c.streamError(id, ProtocolError)
	}
	s := c.newStream(id)
	s.remoteEnd = end
	return Event{Kind: EventHeaders, Stream: id, Fields: c.fields, EndStream: end}, nil
}

// appendHeaders queues HEADERS and, when the block is long, CONTINUATIONs.
func (c *Conn) appendHeaders(id uint32, fields []hpack.HeaderField, end bool) {
	c.encoded.Reset()
	for _, f := range fields {
		_ = c.encoder.WriteField(f) // a bytes.Buffer never fails
	}
	block := c.encoded.Bytes()
	h := frameHeader{kind: frameHeaders, stream: id}
	if end {
		h.flags = flagEndStream
	}
	for first := true; first || len(block) > 0; first = false {
		n := min(len(block), int(c.peer.maxFrameSize))
		if h.length = uint32(n); n == len(block) {
			h.flags |= flagEndHeaders
		}
		c.control = appendFrameHeader(c.control, h)
		c.control = append(c.control, block[:n]...)
		block = block[n:]
		h = frameHeader{kind: frameContinuation, stream: id}
	}
}

func listSize(fields []hpack.HeaderField) uint32 {
	var size uint32
	for _, f := range fields {
		size += f.Size()
	}
	return size
}

// validRequest checks a request's pseudo fields (section 8.3.1; for CONNECT section 8.5, or RFC 8441 section 4 where that is offered) and all fields.
func validRequest(fields []hpack.HeaderField, extended bool) bool {
	var method, scheme, authority, path, protocol int
	connect := false
	rest := fields
	for ; len(rest) > 0 && rest[0].IsPseudo(); rest = rest[1:] {
		switch value := rest[0].Value; rest[0].Name {
		case ":method":
			method++
			connect = value == "CONNECT"
			if !httpguts.ValidHeaderFieldName(value) { // a method is a token as well
				return false
			}
		case ":scheme":
			scheme++
		case ":authority":
			authority++
		case ":path":
			path++
			if value == "" {
				return false
			}
		case ":protocol":
			if protocol++; !extended || !httpguts.ValidHeaderFieldName(value) { // a token as well
				return false
			}
		default:
			return false
		}
		if !httpguts.ValidHeaderFieldValue(rest[0].Value) {
			return false
		}
	}
	if method != 1 || !validRegular(rest) {
		return false
	}
	switch {
	case protocol > 0:
		return connect && protocol == 1 && authority == 1 && scheme == 1 && path == 1
	case connect:
		return authority == 1 && scheme == 0 && path == 0
	}
	return scheme == 1 && path == 1 && authority <= 1
}

// validResponse checks a response's fields (section 8.3.2) and returns its status.
func validResponse(fields []hpack.HeaderField) (status string, ok bool) {
	if len(fields) == 0 || fields[0].Name != ":status" || len(fields[0].Value) != 3 {
		return "", false
	}
	status = fields[0].Value
	if status[0] < '1' || status[0] > '9' || status[1] < '0' || status[1] > '9' || status[2] < '0' || status[2] > '9' {
		return "", false
	}
	return status, validRegular(fields[1:])
}

// validRegular checks fields that are no pseudo fields (sections 8.2.1 and 8.2.2).
func validRegular(fields []hpack.HeaderField) bool {
	for _, f := range fields {
		if f.IsPseudo() || !validName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value) {
			return false
		}
		switch f.Name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return false
		case "te":
			if f.Value != "trailers" {
				return false
			}
		}
	}
	return true
}

func validName(name string) bool {
	for i := range len(name) {
		if 'A' <= name[i] && name[i] <= 'Z' {
			return false
		}
	}
	return httpguts.ValidHeaderFieldName(name)
}
