package relay

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	pipeSize   = 256 << 10 // bytes; asked for, the kernel may give less
	spliceFrom = 32 << 10  // a read of so much is bulk
	spliceTo   = 4 << 10   // a splice of so little isn't any more
)

// splicer moves one direction between two sockets. Small pieces go through a pooled buffer; bulk goes through a pipe within the
// kernel, which exists only as long as it is bulk, so that idle connections cost no descriptors.
type splicer struct {
	from, to *Socket
	r, w     int // the pipe's ends, 0 when there is none

	// Between splice and the callbacks.
	fill, drain func(fd uintptr) bool
	left        int // bytes in the pipe
	moved       int
	err         error
}

func newSplicer(from, to *Socket) *splicer {
	s := &splicer{from: from, to: to}
	s.fill = func(fd uintptr) bool { return s.step(int(fd), s.w, pipeSize) }
	s.drain = func(fd uintptr) bool { return s.step(s.r, int(fd), s.left) }
	return s
}

// next waits for bytes and moves them. It returns io.EOF after the FIN, and how many bytes have reached to in any case.
func (s *splicer) next() (n int, err error) {
	if s.w != 0 {
		return s.splice()
	}
	buffer, err := s.from.Receive()
	if err != nil {
		return 0, err
	}
	defer buffer.Release()
	n, err = s.to.Write(buffer.Bytes())
	if err == nil && n >= spliceFrom {
		s.open()
	}
	return n, err
}

// open makes the pipe. Without one, as when descriptors run out, buffers go on doing the work.
func (s *splicer) open() {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return
	}
	s.r, s.w = fds[0], fds[1]
	_, _ = unix.FcntlInt(uintptr(s.w), unix.F_SETPIPE_SZ, pipeSize)
}

func (s *splicer) close() {
	if s.w != 0 {
		_ = unix.Close(s.r)
		_ = unix.Close(s.w)
		s.r, s.w = 0, 0
	}
}

// splice moves what is there through the pipe, which is empty before and, unless something failed, afterwards.
func (s *splicer) splice() (n int, err error) {
	if err = s.from.raw.Read(s.fill); err == nil {
		err = s.err
	}
	if err != nil {
		return 0, err
	}
	if s.left = s.moved; s.left == 0 {
		return 0, io.EOF
	}
	bulk := s.left >= spliceTo
	for s.left > 0 {
		if err = s.to.raw.Write(s.drain); err == nil {
			err = s.err
		}
		if err != nil {
			return n, err
		}
		n += s.moved
		s.left -= s.moved
	}
	if !bulk {
		s.close()
	}
	return n, nil
}

// step makes one system call, and tells whether it need not wait.
func (s *splicer) step(from, to, most int) (done bool) {
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		case nil:
			s.moved, s.err = int(n), nil
		default:
			s.moved, s.err = 0, os.NewSyscallError("splice", err)
		}
		return true
	}
}
