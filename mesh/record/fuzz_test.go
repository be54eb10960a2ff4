package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"
)

// FuzzReader opens what a peer that has the keys makes of arbitrary bytes: each run of them, of a length that the bytes tell, is the
// inside of a record, or a record as it stands. Whatever comes, what is returned are parts of it, the end is one of three
// kinds, and stays.
func FuzzReader(f *testing.F) {
	f.Add(true, []byte("\x05data\x17\x02\x17\x00\x06\x18\x00\x00\x01\x01\x16"))
	f.Add(true, []byte("\x07\x04\x00\x00\x03ab\x16\x02c\x16\x03\x01\x00\x15"))
	f.Add(false, []byte("\x03\x02\x28\x15"))
	f.Add(false, []byte("\x80\x17\x03\x03\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, server bool, input []byte) {
		peer := Client
		if server {
			peer = Server
		}
		w, r := pair(t, tls.TLS_AES_128_GCM_SHA256, peer)
		for idle := 0; len(input) > 0; {
			wire, rest := fuzzRecord(w, input)
			input = rest
			n, err := r.Next(wire)
			if err == nil && n == 0 {
				return // a header that wants more than there is
			}
			var plain []byte
			if err == nil {
				inside := bytes.Clone(wire[:n])
				if plain, err = r.Open(inside); len(plain) > MaxPlaintext || !bytes.Contains(inside, plain) {
					t.Fatalf("%d bytes that weren't sent", len(plain))
				}
			}
			if idle++; len(plain) > 0 {
				idle = 0
			}
			if idle > maxIdle && err == nil {
				t.Fatalf("%d records without data", idle)
			}
			if err != nil {
				checkEnd(t, r, err)
				return
			}
			// An honest writer follows its own key updates.
			if r.keys.sequence == 0 {
				if err := w.keys.update(); err != nil {
					t.Fatal(err)
				}
			}
			r.UpdateRequested()
		}
	})
}

// fuzzRecord makes a record of the first bytes of input. The first says how many; with its highest bit they stand for themselves.
func fuzzRecord(w *Writer, input []byte) (wire, rest []byte) {
	n := min(int(input[0]&0x7f), len(input)-1)
	content, rest := input[1:1+n], input[1+n:]
	if input[0]&0x80 != 0 {
		return content, rest
	}
	return w.forge(content...), rest
}

func checkEnd(t *testing.T, r *Reader, err error) {
	t.Helper()
	var local *AlertError
	var remote RemoteAlert
	if err != io.EOF && !errors.As(err, &local) && !errors.As(err, &remote) {
		t.Errorf("ends with %v", err)
	}
	if n, again := r.Next([]byte{typeData, 3, 3, 0, 0}); n != 0 || again != err {
		t.Errorf("goes on after %v: %d, %v", err, n, again)
	}
}

// FuzzHandshakeFeed gives arbitrary bytes, in pieces, to either role. It must end, holding no more than its room, without a result.
func FuzzHandshakeFeed(f *testing.F) {
	client, server := configs(f)
	hello, ended := startAlone(client, Client)
	var flight []byte
	for len(flight) == 0 {
		flight = hello.Output()
	}
	hello.Abort(io.EOF)
	<-ended
	f.Add(true, uint8(255), flight)
	f.Add(true, uint8(7), []byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00"))
	f.Add(false, uint8(1), []byte("\x14\x03\x03\x00\x01\x01\x15\x03\x03\x00\x02\x02\x28"))
	f.Fuzz(func(t *testing.T, toServer bool, piece uint8, input []byte) {
		config, role := client, Client
		if toServer {
			config, role = server, Server
		}
		h, ended := startAlone(config, role)
		for len(input) > 0 && !h.Done() {
			n := h.Feed(input[:min(len(input), 1+int(piece))])
			h.wire.mu.Lock()
			if len(h.wire.in) > maxFed {
				t.Errorf("%d bytes held", len(h.wire.in))
			}
			h.wire.mu.Unlock()
			input = input[n:]
		}
		h.FeedEnd()
		<-ended
		if result, err := h.Result(); err == nil || result != nil {
			t.Errorf("a result: %+v", result)
		}
	})
}

// FuzzWire cuts arbitrary bytes into the records that crypto/tls reads. A read never reaches beyond the record that was begun,
// and what is read and what is left are what was fed.
func FuzzWire(f *testing.F) {
	f.Add(uint8(3), uint8(200), uint8(2), []byte("\x16\x03\x01\x00\x02ab\x17\x03\x03\x00\x01c\x17\x03\x03"))
	f.Add(uint8(0), uint8(5), uint8(9), []byte("\x16\x03\x01\x00\x00\x16\x03\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, piece, size, records uint8, input []byte) {
		w := newWire(func() {})
		var got []byte
		fed, end := 0, 0 // end of the record being read
		for space := make([]byte, 1+int(size)); ; {
			fed += w.feed(input[fed:min(len(input), fed+1+int(piece))])
			if !w.readable() {
				if fed == len(input) {
					break
				}
				continue
			}
			if len(got) == end {
				if records == 0 {
					break
				}
				records--
				end += HeaderLen + int(input[end+3])<<8 + int(input[end+4])
			}
			n, err := w.Read(space)
			if got = append(got, space[:n]...); err != nil || n == 0 || len(got) > end {
				t.Fatalf("read %d bytes to %d, %v; the record ends at %d", n, len(got), err, end)
			}
		}
		if all := append(got, w.end()...); !bytes.Equal(all, input[:fed]) {
			t.Errorf("%d bytes fed, %d read or left", fed, len(all))
		}
	})
}

// FuzzKeyLog reads lines of a key log. A secret is never longer than the longest there is.
func FuzzKeyLog(f *testing.F) {
	f.Add([]byte("CLIENT_TRAFFIC_SECRET_0 00ff 0102\n"))
	f.Add([]byte("SERVER_TRAFFIC_SECRET_0  \n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var s secrets
		var log bytes.Buffer
		n, err := (&keyLog{secrets: &s, next: &log}).Write(line)
		if (err == nil) != (n == len(line)) || s.length > maxSecret || (err == nil && !bytes.Equal(log.Bytes(), line)) {
			t.Errorf("%d bytes of a secret, %d of %d written, %v", s.length, n, len(line), err)
		}
	})
}
