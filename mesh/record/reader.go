package record

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxIdle is how many records without application data a peer may send in a row: empty ones, key updates, tickets, pieces of
// tickets. Each costs us work and moves nothing.
const maxIdle = 32

// Reader opens the records of one direction of a connection, from the first after the peer's Finished. It isn't safe for
// concurrent use. Its errors are final: io.EOF after close_notify, RemoteAlert, or *AlertError with what to tell the peer.
type Reader struct {
	keys    keys
	peer    Role
	message message // what is begun of a handshake message
	idle    int     // records without data since the last one with
	request bool    // the peer asked for new keys, and nobody took note yet
	err     error
}

// NewReader makes the Reader of what peer sends. A server may send tickets after the handshake, a client may not.
func NewReader(s State, peer Role) (*Reader, error) {
	k, err := newKeys(s)
	if err != nil {
		return nil, fmt.Errorf("keys for reading: %w", err)
	}
	return &Reader{keys: k, peer: peer}, nil
}

// State tells how to go on after the last record opened. It's false while a handshake message has come in part only, while
// UpdateRequested has something to tell, and after an error.
func (r *Reader) State() (State, bool) {
	if r.err != nil || r.request || r.message.begun() {
		return State{}, false
	}
	return r.keys.state(), true
}

// UpdateRequested tells, once, that the peer has asked us to change our keys as well (RFC 8446 section 4.6.3).
func (r *Reader) UpdateRequested() bool {
	was := r.request
	r.request = false
	return was
}

// Next returns the length of the record at b's start, of MaxRecord at most, or 0 if b doesn't hold the whole of it yet.
func (r *Reader) Next(b []byte) (int, error) {
	switch {
	case r.err != nil:
		return 0, r.err
	case len(b) > 0 && b[0] != typeData:
		// Nothing comes unprotected any more, change_cipher_spec neither (RFC 8446 section 5: only until the peer's Finished).
		return 0, r.fail(UnexpectedMessage, "record of type %d after the handshake", b[0])
	case len(b) < HeaderLen:
		return 0, nil
	}
	// The version in between is to be ignored for all purposes (RFC 8446 section 5.2).
	n := HeaderLen + int(binary.BigEndian.Uint16(b[3:]))
	if n > MaxRecord {
		return 0, r.fail(RecordOverflow, "record of %d bytes", n)
	}
	if len(b) < n {
		return 0, nil
	}
	return n, nil
}

// Open opens a whole record, as Next found it, in place. What it returns lies in it, and is empty if the record had no
// application data.
func (r *Reader) Open(record []byte) ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	body := record[HeaderLen:]
	inner, err := r.keys.aead.Open(body[:0], r.keys.next(), body, record[:HeaderLen])
	if err != nil {
		return nil, r.fail(BadRecordMAC, "record that was not protected with this connection's keys")
	}
	if len(inner) > MaxPlaintext+1 {
		return nil, r.fail(RecordOverflow, "record with %d bytes of plaintext", len(inner))
	}
	n := len(inner) - 1
	for n >= 0 && inner[n] == 0 { // RFC 8446 section 5.4: padding
		n--
	}
	if n < 0 {
		return nil, r.fail(UnexpectedMessage, "record without a type")
	}
	content := inner[:n]
	if inner[n] == typeData && n > 0 && !r.message.begun() {
		r.idle = 0
		return content, nil
	}
	return nil, r.control(inner[n], content)
}

// control handles a record without application data.
func (r *Reader) control(kind contentType, content []byte) error {
	if r.idle++; r.idle > maxIdle {
		return r.fail(UnexpectedMessage, "%d records without data in a row", r.idle)
	}
	switch {
	case r.message.begun() && kind != typeHandshake:
		return r.fail(UnexpectedMessage, "record of type %d within a handshake message", kind)
	case kind == typeData:
		return nil
	case kind != typeAlert && kind != typeHandshake:
		return r.fail(UnexpectedMessage, "protected record of type %d", kind)
	case len(content) == 0: // RFC 8446 section 5.4
		return r.fail(UnexpectedMessage, "empty record of type %d", kind)
	case kind == typeAlert:
		return r.alert(content)
	}
	return r.handshake(content)
}

// alert handles one (RFC 8446 section 6). The level says nothing: all are fatal but UserCanceled, which comes before
// close_notify and needs no answer.
func (r *Reader) alert(content []byte) error {
	switch {
	case len(content) != 2:
		return r.fail(DecodeError, "alert of %d bytes", len(content))
	case Alert(content[1]) == CloseNotify:
		r.err = io.EOF
	case Alert(content[1]) != UserCanceled:
		r.err = RemoteAlert(content[1])
	}
	return r.err
}

func (r *Reader) fail(a Alert, format string, args ...any) error {
	r.err = &AlertError{Alert: a, Reason: fmt.Sprintf(format, args...)}
	return r.err
}
