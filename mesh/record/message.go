package record

// Handshake messages that may come after the handshake (RFC 8446 section 4.6). All others, such as a request for a certificate,
// are refused: crypto/tls, which is gone by now, had offered none of what they belong to.
const (
	messageTicket    = 4
	messageKeyUpdate = 24

	messageHeaderLen = 4
	// maxTicket is the longest NewSessionTicket that its fields allow (RFC 8446 section 4.6.1).
	maxTicket = 4 + 4 + 1 + 255 + 2 + 1<<16 - 1 + 2 + 1<<16 - 2
)

// message is what has come of a handshake message. Messages may be spread over records and share them, but nothing is kept of
// one: tickets are skipped, since nobody resumes, and a key update is one byte.
type message struct {
	header [messageHeaderLen]byte
	have   int // of header
	left   int // bytes of the body to come, once the header is there
}

func (m *message) begun() bool { return m.have > 0 }

// handshake follows the messages in a record's content, which isn't empty.
func (r *Reader) handshake(content []byte) error {
	m := &r.message
	for len(content) > 0 {
		if m.have < messageHeaderLen {
			n := copy(m.header[m.have:], content)
			m.have, content = m.have+n, content[n:]
			if err := r.messageHeader(); err != nil {
				return err
			}
			continue
		}
		n := min(m.left, len(content))
		body := content[:n]
		m.left, content = m.left-n, content[n:]
		if m.left > 0 {
			return nil
		}
		kind := m.header[0]
		*m = message{}
		if kind == messageKeyUpdate {
			return r.keyUpdate(body, len(content))
		}
	}
	return nil
}

// messageHeader checks as much of a message's header as has come.
func (r *Reader) messageHeader() error {
	m := &r.message
	kind := m.header[0]
	if kind != messageKeyUpdate && (kind != messageTicket || r.peer != Server) {
		return r.fail(UnexpectedMessage, "handshake message of type %d after the handshake", kind)
	}
	if m.have < messageHeaderLen {
		return nil
	}
	m.left = int(m.header[1])<<16 | int(m.header[2])<<8 | int(m.header[3])
	switch {
	case kind == messageKeyUpdate && m.left != 1:
		return r.fail(DecodeError, "key update of %d bytes", m.left)
	case kind == messageTicket && (m.left == 0 || m.left > maxTicket):
		return r.fail(DecodeError, "session ticket of %d bytes", m.left)
	}
	return nil
}

// keyUpdate takes the peer's next keys (RFC 8446 section 4.6.3); what follows in the same record would be under the wrong ones.
func (r *Reader) keyUpdate(body []byte, following int) error {
	switch {
	case following > 0: // RFC 8446 section 5.1
		return r.fail(UnexpectedMessage, "%d bytes after a key update in its record", following)
	case body[0] > 1:
		return r.fail(IllegalParameter, "key update with request %d", body[0])
	}
	if err := r.keys.update(); err != nil {
		return r.fail(InternalError, "next keys for reading: %v", err)
	}
	r.request = r.request || body[0] == 1
	return nil
}
