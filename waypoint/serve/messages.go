package serve

// messages counts those of gRPC in the bytes of a body, wherever these are cut: each has five bytes before it, of which the last four are its length.
type messages struct {
	count uint64
	head  int    // bytes of a head that have come
	size  uint32 // of the head so far; from then on what is still to come of the message
}

const messageHead = 5

func (m *messages) add(p []byte) {
	for len(p) > 0 {
		if m.head < messageHead {
			if m.head > 0 { // the first byte says whether it is compressed
				m.size = m.size<<8 | uint32(p[0])
			}
			p = p[1:]
			if m.head++; m.head < messageHead {
				continue
			}
			m.count++
		}
		n := min(uint64(m.size), uint64(len(p)))
		p, m.size = p[n:], m.size-uint32(n)
		if m.size == 0 {
			m.head = 0
		}
	}
}
