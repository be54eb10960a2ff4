package loop

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// BufferSize is the length of a loop's buffers: 34 TLS records of the greatest length, 16 KiB and what is around them.
const BufferSize = 34 * (16<<10 + 22)

const (
	// spareBuffers is how many buffers a loop keeps for the next turn. A turn needs one to read and one to write, and those
	// tunnels have one each whose sockets don't take what they should.
	spareBuffers = 16
	// calm is how long no buffer was used before the memory of the spare ones is given back.
	calm = 5 * time.Second
)

// buffers are a loop's spare ones. They are the kernel's memory, not the garbage collector's: half a megabyte each would make
// it run when there is hardly anything to collect, and of a buffer only the pages that were ever used cost memory.
type buffers struct {
	spare   [][]byte
	used    bool // since relax ran
	waiting bool // for relax to run
	idle    Timer
}

// Buffer lends a buffer of BufferSize. It belongs to the caller until Return, which must follow.
func (l *Loop) Buffer() []byte {
	b := &l.buffers
	b.used = true
	if n := len(b.spare); n > 0 {
		buffer := b.spare[n-1]
		b.spare = b.spare[:n-1]
		return buffer
	}
	buffer, err := unix.Mmap(-1, 0, BufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(fmt.Sprintf("event loop: no memory for a buffer: %v", err)) // as when the heap gets none
	}
	return buffer
}

// Return gives a buffer back.
func (l *Loop) Return(buffer []byte) {
	b := &l.buffers
	buffer = buffer[:BufferSize]
	if len(b.spare) < spareBuffers {
		b.spare = append(b.spare, buffer)
	} else {
		_ = unix.Munmap(buffer) // fails only on what Mmap hasn't made
	}
	if !b.waiting {
		b.waiting = true
		b.idle.Run = l.relax
		l.After(&b.idle, calm)
	}
}

// relax gives the spare buffers back when they weren't used for a while.
func (l *Loop) relax() {
	b := &l.buffers
	if b.used {
		b.used = false
		l.After(&b.idle, calm)
		return
	}
	b.waiting = false
	b.close()
}

// close unmaps the spare buffers. Those that are lent stay: whoever has them may still use them.
func (b *buffers) close() {
	for _, buffer := range b.spare {
		_ = unix.Munmap(buffer)
	}
	b.spare = nil
}
