package relay

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// bufferSize leaves room for a frame header in four TLS records.
const bufferSize = 64<<10 - 64

// Buffer is a pooled piece of memory with received bytes. Whoever gets one from Read must Release it.
type Buffer struct {
	bytes [bufferSize]byte
	n     int
}

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// Bytes returns what was received, valid until Release.
func (b *Buffer) Bytes() []byte { return b.bytes[:b.n] }

// Release gives the memory back.
func (b *Buffer) Release() { buffers.Put(b) }

// Socket is a TCP connection for relaying: its idle reader owns no buffer, and it can be written to without waiting.
type Socket struct {
	*net.TCPConn
	raw syscall.RawConn

	// Of the one goroutine that reads.
	readable func(fd uintptr) bool
	buffer   *Buffer
	readErr  error

	// Of the one goroutine that writes.
	writable func(fd uintptr) bool
	out      []byte
	written  int
	writeErr error
}

// NewSocket wraps the connection.
func NewSocket(conn *net.TCPConn) (*Socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Socket{TCPConn: conn, raw: raw}
	s.readable, s.writable = s.onReadable, s.onWritable
	return s, nil
}

// Receive waits until bytes came and returns them. The error is io.EOF after the peer's FIN.
func (s *Socket) Receive() (*Buffer, error) {
	s.readErr = nil
	if err := s.raw.Read(s.readable); err != nil {
		return nil, err
	}
	b := s.buffer
	s.buffer = nil
	return b, s.readErr
}

func (s *Socket) onReadable(fd uintptr) (done bool) {
	b := buffers.Get().(*Buffer)
	n, err := retry(int(fd), b.bytes[:], syscall.Read)
	if n > 0 {
		b.n = n
		s.buffer = b
		return true
	}
	b.Release()
	switch err {
	case syscall.EAGAIN:
		return false
	case nil:
		s.readErr = io.EOF
	default:
		s.readErr = os.NewSyscallError("read", err)
	}
	return true
}

// TryWrite writes what the kernel takes at once, which may be nothing.
func (s *Socket) TryWrite(p []byte) (n int, err error) {
	s.out, s.written, s.writeErr = p, 0, nil
	err = s.raw.Write(s.writable)
	s.out = nil
	if err == nil {
		err = s.writeErr
	}
	return s.written, err
}

func (s *Socket) onWritable(fd uintptr) (done bool) {
	for s.written < len(s.out) {
		n, err := retry(int(fd), s.out[s.written:], syscall.Write)
		if n > 0 {
			s.written += n
			continue
		}
		if err != syscall.EAGAIN {
			s.writeErr = os.NewSyscallError("write", err)
		}
		break
	}
	return true
}

func retry(fd int, p []byte, call func(int, []byte) (int, error)) (int, error) {
	for {
		if n, err := call(fd, p); err != syscall.EINTR {
			return n, err
		}
	}
}

// Reset closes the connection so that its peer gets a TCP reset.
func (s *Socket) Reset() { reset(s.TCPConn) }

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
