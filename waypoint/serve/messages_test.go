package serve

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestMessagesAreCountedHoweverTheirBytesAreCut(t *testing.T) {
	var body []byte
	sizes := []uint32{0, 1, 5, 0, 300, 70_000, 0, 0}
	for _, size := range sizes {
		body = append(binary.BigEndian.AppendUint32(append(body, 0), size), make([]byte, size)...)
	}
	for range 200 {
		var m messages
		for rest := body; len(rest) > 0; {
			n := min(1+rand.IntN(1+rand.IntN(40_000)), len(rest))
			m.add(rest[:n])
			rest = rest[n:]
		}
		if m.count != uint64(len(sizes)) || m.head != 0 {
			t.Fatalf("%d messages, %d bytes of another; want %d", m.count, m.head, len(sizes))
		}
	}
}
