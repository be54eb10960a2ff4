package record

import "fmt"

// After 2^24.5 full records under one AES-GCM key the protection gets thin (RFC 8446 section 5.5). We change keys long before,
// with every suite, since that costs nothing at such distances, and refuse to go on where the driver forgot to.
const (
	updateAt   = 1 << 23 // records: 128 GiB when all are full
	writeLimit = 1 << 24
)

// Writer protects one direction of a connection. It isn't safe for concurrent use. Records must be sent in the order in which
// they were made.
type Writer struct {
	keys keys
}

func NewWriter(s State) (*Writer, error) {
	if s.Sequence >= writeLimit {
		return nil, fmt.Errorf("%d records have been written under one key, which can't be used any longer", s.Sequence)
	}
	k, err := newKeys(s)
	if err != nil {
		return nil, fmt.Errorf("keys for writing: %w", err)
	}
	return &Writer{keys: k}, nil
}

// State tells how to go on after the last record made.
func (w *Writer) State() State { return w.keys.state() }

// NeedsUpdate tells that it's time for AppendKeyUpdate.
func (w *Writer) NeedsUpdate() bool { return w.keys.sequence >= updateAt }

// Seal turns n bytes of application data, which stand HeaderLen bytes after b's start, into a record, in place, and returns the
// record's length, n+Overhead. It panics if b is shorter than that, if n exceeds MaxPlaintext, or if NeedsUpdate was ignored for
// millions of records.
func (w *Writer) Seal(b []byte, n int) int {
	return w.seal(b, n, typeData)
}

func (w *Writer) seal(b []byte, n int, kind contentType) int {
	if n > MaxPlaintext || w.keys.sequence >= writeLimit {
		panic(fmt.Sprintf("record of %d bytes after %d records under one key", n, w.keys.sequence))
	}
	b = b[:n+Overhead]
	length := n + 1 + TagLen
	b[0], b[1], b[2], b[3], b[4] = typeData, 3, 3, byte(length>>8), byte(length)
	b[HeaderLen+n] = kind
	w.keys.aead.Seal(b[HeaderLen:HeaderLen], w.keys.next(), b[HeaderLen:HeaderLen+n+1], b[:HeaderLen])
	return len(b)
}

// AppendAlert appends the record of an alert. After any but UserCanceled nothing may follow.
func (w *Writer) AppendAlert(dst []byte, a Alert) []byte {
	return w.append(dst, typeAlert, []byte{a.level(), byte(a)})
}

// AppendKeyUpdate appends the record that announces new keys, and takes them for all that follows. If request is set the peer is
// asked to do likewise; an answer to such a request of the peer's doesn't ask back (RFC 8446 section 4.6.3).
func (w *Writer) AppendKeyUpdate(dst []byte, request bool) ([]byte, error) {
	message := []byte{messageKeyUpdate, 0, 0, 1, 0}
	if request {
		message[4] = 1
	}
	dst = w.append(dst, typeHandshake, message)
	if err := w.keys.update(); err != nil {
		return dst, fmt.Errorf("next keys for writing: %w", err)
	}
	return dst, nil
}

func (w *Writer) append(dst []byte, kind contentType, content []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, len(content)+Overhead)...)
	copy(dst[start+HeaderLen:], content)
	w.seal(dst[start:], len(content), kind)
	return dst
}
