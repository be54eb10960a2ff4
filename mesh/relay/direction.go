package relay

import (
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

const (
	smallRead = 64 << 10  // bytes that are read and written in one piece; when a read fills it, the rest is spliced
	pipeSize  = 1 << 20   // bytes that a pipe holds between two sockets
	turnSize  = 256 << 10 // bytes that a direction moves in one turn
)

// direction moves what one socket sends to the other: small pieces through memory, bulk through a pipe and by splice(2), where
// the payload never enters our memory. An idle direction owns neither.
type direction struct {
	pair     *pair
	from, to int
	count    func(int)
	task     loop.Task

	readable bool
	ending   bool   // from has ended; what it sent before may wait
	blocked  bool   // to takes no more for now
	failed   bool   // from is broken; what it sent before may wait
	over     bool   // to got its FIN, or all has ended
	left     []byte // what to didn't take of a small piece
	pipe     *pipe
}

// pipe is a kernel buffer between two sockets.
type pipe struct {
	in, out int
	holds   int
}

func (d *direction) begin(p *pair, from, to int, count func(int)) {
	d.pair, d.from, d.to, d.count = p, from, to, count
	d.task.Run = d.move
}

// move is the direction's task: it moves what it can, as much as is fair in one turn. When from is broken nobody waits until to
// takes the rest, which may be never.
func (d *direction) move() {
	d.moveSome()
	if d.failed && d.blocked && !d.over {
		d.failed = false
		if err := loop.Failure(d.from); err != nil {
			d.pair.end(failed("read", err))
		}
	}
}

func (d *direction) moveSome() {
	for moved := 0; !d.over && !d.blocked; {
		if moved >= turnSize {
			d.pair.loop.Input(&d.task)
			return
		}
		n, err := d.step()
		if err != nil {
			d.pair.end(err)
			return
		}
		if n == 0 {
			return
		}
		moved += n
	}
}

// step moves one piece and returns its size, or 0 when there is nothing to do before one of the sockets is ready.
func (d *direction) step() (int, error) {
	switch {
	case len(d.left) > 0:
		return d.writeLeft()
	case d.pipe != nil && d.pipe.holds > 0:
		return d.drainPipe()
	case d.ending:
		d.finish()
		return 0, nil
	case !d.readable:
		d.dropPipe()
		return 0, nil
	case d.pipe != nil:
		return d.fillPipe()
	}
	return d.copy()
}

// copy moves a piece through memory. A large one tells of bulk.
func (d *direction) copy() (int, error) {
	buffer := d.pair.loop.Buffer()
	defer d.pair.loop.Return(buffer)
	n, err := loop.Read(d.from, buffer[:smallRead])
	switch {
	case err == unix.EAGAIN:
		d.readable = false
		return 0, nil
	case err != nil:
		return 0, failed("read", err)
	case n == 0:
		d.ending = true
		return d.step()
	}
	if n == smallRead {
		d.pipe = openPipe()
	}
	written, err := d.write(buffer[:n])
	if written < n && err == nil {
		d.left = append([]byte(nil), buffer[written:n]...)
	}
	return written, err
}

func (d *direction) writeLeft() (int, error) {
	n, err := d.write(d.left)
	if d.left = d.left[n:]; len(d.left) == 0 {
		d.left = nil
	}
	return n, err
}

// write writes what the socket takes.
func (d *direction) write(p []byte) (int, error) {
	n, err := loop.Write(d.to, p)
	if err == unix.EAGAIN {
		d.blocked = true
		return 0, nil
	}
	if err != nil {
		return 0, failed("write", err)
	}
	d.count(n)
	if n < len(p) {
		d.blocked = true
	}
	return n, nil
}

// fillPipe moves bytes into the pipe.
func (d *direction) fillPipe() (int, error) {
	n, err := splice(d.from, d.pipe.in, pipeSize)
	switch {
	case err == unix.EAGAIN:
		d.readable = false
		d.dropPipe()
		return 0, nil
	case err != nil:
		return 0, failed("read", err)
	case n == 0:
		d.ending = true
		return d.step()
	}
	d.pipe.holds = n
	return d.drainPipe()
}

// drainPipe moves bytes out of the pipe.
func (d *direction) drainPipe() (int, error) {
	n, err := splice(d.pipe.out, d.to, d.pipe.holds)
	if err == unix.EAGAIN {
		d.blocked = true
		return 0, nil
	}
	if err != nil {
		return 0, failed("write", err)
	}
	d.pipe.holds -= n
	d.count(n)
	return n, nil
}

// finish passes from's end on. That to has gone shows when it is read.
func (d *direction) finish() {
	d.dropPipe()
	d.over = true
	_ = unix.Shutdown(d.to, unix.SHUT_WR)
	d.pair.endIfOver()
}

// openPipe returns nil when there are no descriptors left: then all goes through memory.
func openPipe() *pipe {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // else it is smaller, no more
	return &pipe{in: fds[1], out: fds[0]}
}

func (d *direction) dropPipe() {
	if d.pipe != nil {
		_ = unix.Close(d.pipe.in)
		_ = unix.Close(d.pipe.out)
		d.pipe = nil
	}
}

func splice(from, to, n int) (int, error) {
	moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	return int(moved), err
}
