package loop

// BufferSize is the length of a loop's buffers: 34 TLS records of the greatest length, 16 KiB and what is around them.
const BufferSize = 34 * (16<<10 + 22)

// spareBuffers is how many buffers a loop keeps for the next turn. A turn needs one to read and one to write; more are in use
// while sockets don't take what they should.
const spareBuffers = 2

// Buffer lends a buffer of BufferSize. It belongs to the caller until Return; one that is never returned is only lost.
func (l *Loop) Buffer() []byte {
	if n := len(l.spare); n > 0 {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b
	}
	return make([]byte, BufferSize)
}

// Return gives a buffer back.
func (l *Loop) Return(b []byte) {
	if len(l.spare) < spareBuffers {
		l.spare = append(l.spare, b[:BufferSize])
	}
}
