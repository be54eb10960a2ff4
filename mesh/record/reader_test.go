package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"testing"
)

var allSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}

// pair is a direction with both its ends.
func pair(tb testing.TB, id uint16, from Role) (*Writer, *Reader) {
	tb.Helper()
	s, err := suiteOf(id)
	if err != nil {
		tb.Fatal(err)
	}
	state := State{Suite: id, Secret: bytes.Repeat([]byte{7}, s.secretLen)}
	w, err := NewWriter(state)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := NewReader(state, from)
	if err != nil {
		tb.Fatal(err)
	}
	return w, r
}

// forge protects inner, which ought to be content, type and padding, as it stands.
func (w *Writer) forge(inner ...byte) []byte {
	n := len(inner) + TagLen
	header := []byte{typeData, 3, 3, byte(n >> 8), byte(n)}
	return w.keys.aead.Seal(header, w.keys.next(), inner, header)
}

func (w *Writer) data(content string) []byte {
	b := make([]byte, len(content)+Overhead)
	copy(b[HeaderLen:], content)
	return b[:w.Seal(b, len(content))]
}

// read opens all records of input, which it changes, and returns the data of each.
func read(r *Reader, input []byte) (data []string, err error) {
	for {
		n, err := r.Next(input)
		if n == 0 || err != nil {
			return data, err
		}
		plain, err := r.Open(input[:n])
		if err != nil {
			return data, err
		}
		data = append(data, string(plain))
		input = input[n:]
	}
}

func TestRecordsComeOutAsTheyWentIn(t *testing.T) {
	for _, id := range allSuites {
		t.Run(tls.CipherSuiteName(id), func(t *testing.T) {
			w, r := pair(t, id, Client)
			var wire []byte
			var sent []string
			for _, n := range []int{0, 1, 100, MaxPlaintext - 1, MaxPlaintext} {
				content := string(bytes.Repeat([]byte{byte(n)}, n))
				sent = append(sent, content)
				wire = append(wire, w.data(content)...)
			}
			got, err := read(r, wire)
			if err != nil || !slices.Equal(got, sent) {
				t.Errorf("%d records came out, error %v", len(got), err)
			}
		})
	}
}

func TestSealKeepsToItsSlot(t *testing.T) {
	w, _ := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	slots := bytes.Repeat([]byte{0xee}, 2*SlotLen)
	if n := w.Seal(slots, MaxPlaintext); n != SlotLen {
		t.Errorf("a full record has %d bytes, a slot %d", n, SlotLen)
	}
	if !bytes.Equal(slots[SlotLen:], bytes.Repeat([]byte{0xee}, SlotLen)) {
		t.Error("sealing wrote into the next slot")
	}
}

func TestNextTellsWhereARecordEnds(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	wire := w.data("hello")
	for n := range len(wire) {
		if got, err := r.Next(wire[:n]); got != 0 || err != nil {
			t.Errorf("of %d bytes: %d, %v", n, got, err)
		}
	}
	if got, err := r.Next(append(slices.Clone(wire), wire...)); got != len(wire) || err != nil {
		t.Errorf("of two records: %d, %v", got, err)
	}
}

// A peer may pad as it likes within a record (RFC 8446 section 5.4) and put any version into it (5.2).
func TestPaddingAndVersionAreIgnored(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	padded := w.forge(append([]byte("hello\x17"), make([]byte, MaxPlaintext-5)...)...)
	header := []byte{typeData, 9, 9, 0, 3 + TagLen}
	versioned := w.keys.aead.Seal(header, w.keys.next(), []byte("yo\x17"), header)
	got, err := read(r, append(padded, versioned...))
	if err != nil || !slices.Equal(got, []string{"hello", "yo"}) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestCloseNotifyEndsReading(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	wire := append(w.data("last"), w.AppendAlert(nil, CloseNotify)...)
	wire = append(wire, w.data("ignored")...) // RFC 8446 section 6.1
	got, err := read(r, wire)
	if err != io.EOF || !slices.Equal(got, []string{"last"}) {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := r.Next(nil); err != io.EOF {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := r.Open(w.data("more")); err != io.EOF {
		t.Errorf("afterwards: %v", err)
	}
}

func TestPeersAlertIsTold(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	_, err := read(r, w.AppendAlert(w.AppendAlert(nil, UserCanceled), 48))
	var remote RemoteAlert
	if !errors.As(err, &remote) || remote != 48 || err.Error() != "peer ended the connection with TLS alert unknown_ca" {
		t.Errorf("error %v", err)
	}
}

func TestTicketsAreSkipped(t *testing.T) {
	ticket := append([]byte{messageTicket, 0, 0x90, 0}, make([]byte, 0x9000)...)
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Server)
	var wire []byte
	for piece := range slices.Chunk(slices.Concat(ticket, ticket, ticket), 5003) {
		wire = append(wire, w.forge(append(piece, typeHandshake)...)...)
	}
	wire = append(wire, w.data("data")...)
	got, err := read(r, wire)
	if err != nil || got[len(got)-1] != "data" {
		t.Errorf("error %v after %d records", err, len(got))
	}
}

func TestKeysAreChangedWhenThePeerSaysSo(t *testing.T) {
	for _, id := range allSuites {
		t.Run(tls.CipherSuiteName(id), func(t *testing.T) {
			w, r := pair(t, id, Server)
			before := w.State().Secret
			wire := w.data("before")
			wire = must(w.AppendKeyUpdate(wire, false))(t)
			wire = append(wire, w.data("between")...)
			wire = must(w.AppendKeyUpdate(wire, true))(t)
			wire = append(wire, w.data("after")...)
			got, err := read(r, wire)
			if err != nil || !slices.Equal(got, []string{"before", "", "between", "", "after"}) {
				t.Errorf("read %q, %v", got, err)
			}
			if bytes.Equal(w.State().Secret, before) || w.State().Sequence != 1 {
				t.Errorf("state afterwards: %v", w.State())
			}
			if !r.UpdateRequested() || r.UpdateRequested() {
				t.Error("an answer is to be asked for exactly once")
			}
		})
	}
}

// One answer does for any number of requests, and none is forgotten for a later update that asks for nothing.
func TestRequestForNewKeysIsRemembered(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	wire := must(w.AppendKeyUpdate(nil, true))(t)
	wire = must(w.AppendKeyUpdate(wire, false))(t)
	if _, err := read(r, wire); err != nil || !r.UpdateRequested() {
		t.Errorf("forgotten; error %v", err)
	}
}

func TestKeyUpdateMayComeInPiecesAndAfterATicket(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Server)
	wire := w.forge(messageTicket, 0, 0, 1, 'x', messageKeyUpdate, 0, typeHandshake)
	wire = append(wire, w.forge(0, 1, 1, typeHandshake)...)
	if err := w.keys.update(); err != nil {
		t.Fatal(err)
	}
	wire = append(wire, w.data("after")...)
	got, err := read(r, wire)
	if err != nil || got[len(got)-1] != "after" || !r.UpdateRequested() {
		t.Errorf("read %q, %v", got, err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}
