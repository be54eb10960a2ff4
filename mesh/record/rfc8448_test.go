package record

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"io"
	"strings"
	"testing"
)

// The records after the handshake of RFC 8448 section 3, "Simple 1-RTT Handshake".
const (
	rfcClientSecret = "9e40646ce79a7f9dc05af8889bce6552 875afa0b06df0087f792ebb7c17504a5"
	rfcServerSecret = "a11af9f05531f856ad47116b45a95032 8204b4f44bfb6b3a4b4f1f3fcb631643"
	rfcClientData   = "1703030043 a23f7054b62c94d0affafe8228ba55cb efacea42f914aa66bcab3f2b9819a8a5 b46b395bd54a9a20441e2b62974e1f5a 6292a2977014bd1e3deae63aeebb2169 4915e4"
	rfcClientClose  = "1703030013 c9872760655666b74d7ff1153efd6db6 d0b0e3"
	rfcServerData   = "1703030043 2e937e11ef4ac740e538ad36005fc4a4 6932fc3225d05f82aa1b36e30efaf97d 90e6dffc602dcb501a59a8fcc49c4bf2 e5f0a21c0047c2abf332540dd032e167 c2955d"
	rfcServerClose  = "1703030013 b58fd67166ebf599d24720cfbe7efa7a 8864a9"
)

func unhex(tb testing.TB, text string) []byte {
	tb.Helper()
	return must(hex.DecodeString(strings.ReplaceAll(text, " ", "")))(tb)
}

func TestExampleOfRFC8448(t *testing.T) {
	plain := make([]byte, 50)
	for i := range plain {
		plain[i] = byte(i)
	}
	for name, c := range map[string]struct {
		secret, data, end string
		first             uint64 // the server's first record is a ticket
	}{
		"client": {secret: rfcClientSecret, data: rfcClientData, end: rfcClientClose},
		"server": {secret: rfcServerSecret, data: rfcServerData, end: rfcServerClose, first: 1},
	} {
		t.Run(name, func(t *testing.T) {
			state := State{Suite: tls.TLS_AES_128_GCM_SHA256, Secret: unhex(t, c.secret), Sequence: c.first}
			want := append(unhex(t, c.data), unhex(t, c.end)...)

			w := must(NewWriter(state))(t)
			got := make([]byte, len(plain)+Overhead)
			copy(got[HeaderLen:], plain)
			got = w.AppendAlert(got[:w.Seal(got, len(plain))], CloseNotify)
			if !bytes.Equal(got, want) {
				t.Errorf("made\n%x, want\n%x", got, want)
			}

			data, err := read(must(NewReader(state, Server))(t), want)
			if err != io.EOF || len(data) != 1 || data[0] != string(plain) {
				t.Errorf("read %q, %v", data, err)
			}
		})
	}
}
