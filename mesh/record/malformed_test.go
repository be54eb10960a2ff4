package record

import (
	"crypto/tls"
	"errors"
	"slices"
	"testing"
)

// What a peer may do wrong, under the rule of RFC 8446 that forbids it, and the alert by which it is told.
func TestMalformedRecordsAreRefused(t *testing.T) {
	zeros := func(n int) []byte { return make([]byte, n) }
	repeat := func(n int, record func() []byte) (wire []byte) {
		for range n {
			wire = append(wire, record()...)
		}
		return wire
	}
	cases := map[string]struct {
		from  Role
		alert Alert
		wire  func(w *Writer) []byte
	}{
		"5: change_cipher_spec after the handshake": {alert: UnexpectedMessage, wire: func(*Writer) []byte { return []byte{20, 3, 3, 0, 1, 1} }},
		"5.1: message of the next key after a key update": {alert: UnexpectedMessage, wire: func(w *Writer) []byte {
			return w.forge(messageKeyUpdate, 0, 0, 1, 0, messageKeyUpdate, 0, 0, 1, 0, typeHandshake)
		}},
		"5.1: data within a message": {from: Server, alert: UnexpectedMessage, wire: func(w *Writer) []byte {
			return append(w.forge(messageTicket, 0, 0, 9, 1, typeHandshake), w.data("data")...)
		}},
		"5.1: empty record within a message": {from: Server, alert: UnexpectedMessage, wire: func(w *Writer) []byte {
			return append(w.forge(messageTicket, typeHandshake), w.data("")...)
		}},
		"5.1: alert within a message": {alert: UnexpectedMessage, wire: func(w *Writer) []byte {
			return w.AppendAlert(w.forge(messageKeyUpdate, 0, 0, typeHandshake), CloseNotify)
		}},
		"5.1: two alerts in a record":          {alert: DecodeError, wire: func(w *Writer) []byte { return w.forge(1, 90, 1, 0, typeAlert) }},
		"5.1: half an alert":                   {alert: DecodeError, wire: func(w *Writer) []byte { return w.forge(1, typeAlert) }},
		"5.1: type nobody knows":               {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(1, 99) }},
		"5.1: protected change_cipher_spec":    {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(1, 20) }},
		"5.2: unprotected alert":               {alert: UnexpectedMessage, wire: func(*Writer) []byte { return []byte{typeAlert, 3, 3, 0, 2, 2, 40} }},
		"5.2: unprotected handshake message":   {alert: UnexpectedMessage, wire: func(*Writer) []byte { return []byte{typeHandshake} }},
		"5.2: header that announces too much":  {alert: RecordOverflow, wire: func(*Writer) []byte { return []byte{typeData, 3, 3, 0x41, 1} }},
		"5.2: record that was tampered with":   {alert: BadRecordMAC, wire: tampered(HeaderLen)},
		"5.2: header that was tampered with":   {alert: BadRecordMAC, wire: tampered(2)},
		"5.2: record shorter than a tag":       {alert: BadRecordMAC, wire: func(*Writer) []byte { return []byte{typeData, 3, 3, 0, 1, 0} }},
		"5.2: record of no bytes":              {alert: BadRecordMAC, wire: func(*Writer) []byte { return []byte{typeData, 3, 3, 0, 0} }},
		"5.3: record that comes twice":         {alert: BadRecordMAC, wire: func(w *Writer) []byte { b := w.data("x"); return append(b, slices.Clone(b)...) }},
		"5.3: record that was left out":        {alert: BadRecordMAC, wire: func(w *Writer) []byte { _ = w.data("x"); return w.data("y") }},
		"5.4: too much plaintext":              {alert: RecordOverflow, wire: func(w *Writer) []byte { return w.forge(append(zeros(MaxPlaintext+1), typeData)...) }},
		"5.4: too much padding":                {alert: RecordOverflow, wire: func(w *Writer) []byte { return w.forge(append([]byte{typeData}, zeros(MaxPlaintext+1)...)...) }},
		"5.4: nothing but padding":             {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(zeros(100)...) }},
		"5.4: nothing at all":                  {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge() }},
		"5.4: empty alert":                     {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(typeAlert) }},
		"5.4: empty handshake message":         {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(typeHandshake) }},
		"4.6.1: ticket from a client":          {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(messageTicket, typeHandshake) }},
		"4.6.1: empty ticket":                  {from: Server, alert: DecodeError, wire: func(w *Writer) []byte { return w.forge(messageTicket, 0, 0, 0, typeHandshake) }},
		"4.6.1: ticket longer than its fields": {from: Server, alert: DecodeError, wire: func(w *Writer) []byte { return w.forge(messageTicket, 2, 1, 10, typeHandshake) }},
		"4.6.2: request for a certificate":     {from: Server, alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(13, 0, 0, 3, 0, 0, 0, typeHandshake) }},
		"4.6.3: key update of two bytes":       {alert: DecodeError, wire: func(w *Writer) []byte { return w.forge(messageKeyUpdate, 0, 0, 2, 0, 0, typeHandshake) }},
		"4.6.3: key update of no bytes":        {alert: DecodeError, wire: func(w *Writer) []byte { return w.forge(messageKeyUpdate, 0, 0, 0, typeHandshake) }},
		"4.6.3: key update with odd request":   {alert: IllegalParameter, wire: func(w *Writer) []byte { return w.forge(messageKeyUpdate, 0, 0, 1, 2, typeHandshake) }},
		"4.6.3: data under the keys of before": {alert: BadRecordMAC, wire: func(w *Writer) []byte {
			return append(w.forge(messageKeyUpdate, 0, 0, 1, 0, typeHandshake), w.data("x")...)
		}},
		"renegotiation, as TLS 1.2 had it": {from: Server, alert: UnexpectedMessage, wire: func(w *Writer) []byte { return w.forge(0, 0, 0, 0, typeHandshake) }},
		"flood of empty records":           {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return repeat(maxIdle+1, func() []byte { return w.data("") }) }},
		"flood of warnings":                {alert: UnexpectedMessage, wire: func(w *Writer) []byte { return repeat(maxIdle+1, func() []byte { return w.forge(1, 90, typeAlert) }) }},
		"flood of tickets": {from: Server, alert: UnexpectedMessage, wire: func(w *Writer) []byte {
			return repeat(maxIdle+1, func() []byte { return w.forge(4, 0, 0, 1, 0, typeHandshake) })
		}},
		"flood of key updates": {alert: UnexpectedMessage, wire: func(w *Writer) []byte {
			return repeat(maxIdle+1, func() []byte { b, _ := w.AppendKeyUpdate(nil, true); return b })
		}},
		"flood of one-byte pieces of a message": {from: Server, alert: UnexpectedMessage, wire: func(w *Writer) []byte {
			wire := w.forge(messageTicket, 1, 0, 0, typeHandshake)
			return append(wire, repeat(maxIdle, func() []byte { return w.forge(0, typeHandshake) })...)
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, c.from)
			_, err := read(r, c.wire(w))
			var local *AlertError
			if !errors.As(err, &local) || local.Alert != c.alert {
				t.Fatalf("error %v, want alert %v", err, c.alert)
			}
			if _, again := r.Next(w.data("more")); again != err {
				t.Errorf("the next record: %v", again)
			}
			if _, ok := r.State(); ok {
				t.Error("what can't go on has a state")
			}
		})
	}
}

func tampered(at int) func(w *Writer) []byte {
	return func(w *Writer) []byte {
		b := w.data("data")
		b[at] ^= 1
		return b
	}
}

// What costs work is limited in a row only: a peer may do it for ever, if it moves data in between.
func TestIdleRecordsAreForgivenWhereDataMoves(t *testing.T) {
	w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, Client)
	for range 10 {
		var wire []byte
		for range maxIdle {
			wire = append(wire, w.data("")...)
		}
		if _, err := read(r, append(wire, w.data("data")...)); err != nil {
			t.Fatal(err)
		}
	}
}
