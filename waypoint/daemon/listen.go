package daemon

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
)

const (
	// closeTimeout bounds the wait for what takes a second at most, on workers that are never busy for long.
	closeTimeout = 5 * time.Second
	// acceptsPerTurn is how many connections one worker takes at a time, so that others get their part.
	acceptsPerTurn = 32
	// pauseTime is how long accepting rests when descriptors or memory run out: what is open may end.
	pauseTime = 50 * time.Millisecond
)

// door is where tunnels arrive. All workers wait there; the one that accepts a connection keeps it.
type door struct {
	w    *waypoint
	fd   int
	ways []*way
}

// way is a worker's part in the door.
type way struct {
	door   *door
	worker *worker.Worker
	line   *line
	pause  loop.Timer
	closed bool
}

// listen opens the door.
func (w *waypoint) listen() (*door, error) {
	addr, err := listenAddr(w.cfg.Listen.Tunnels)
	if err != nil {
		return nil, err
	}
	fd, err := (*socket.Netns)(nil).ListenFD(socket.ListenConfig{Addr: addr})
	if err != nil {
		return nil, err
	}
	d := &door{w: w, fd: fd}
	w.log.Info("server", "of", "tunnels", "addr", addr.String())
	for i, on := range w.workers {
		at := &way{door: d, worker: on, line: w.lines[i]}
		at.pause.Run = at.resume
		d.ways = append(d.ways, at)
		_ = on.Do(at.resume) // fails only when the program has ended
	}
	return d, nil
}

func listenAddr(text string) (netip.AddrPort, error) {
	if text != "" && text[0] == ':' {
		text = "[::]" + text
	}
	addr, err := netip.ParseAddrPort(text)
	if err != nil {
		return addr, fmt.Errorf("address for tunnels: %w", err)
	}
	return addr, nil
}

// close accepts no more.
func (d *door) close() {
	for _, at := range d.ways {
		_ = at.worker.Do(func() {
			at.closed = true
			at.worker.Stop(&at.pause)
			at.worker.Forget(d.fd)
		})
	}
	_ = unix.Close(d.fd)
}

func (at *way) resume() {
	if at.closed {
		return
	}
	if err := at.worker.WatchListener(at.door.fd, at); err != nil {
		at.door.w.log.Error("accept", "err", err)
		at.worker.After(&at.pause, pauseTime)
	}
}

// Ready implements loop.Handler for the listening socket.
func (at *way) Ready(loop.Events) {
	for range acceptsPerTurn {
		fd, remote, err := socket.Accept(at.door.fd)
		switch err {
		case nil:
			at.take(fd, remote)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR: // the client was faster
		default:
			at.door.w.log.Error("connections have to wait; raise the limit of open files or of memory", "err", err)
			at.worker.Forget(at.door.fd)
			at.worker.After(&at.pause, pauseTime)
			return
		}
	}
}

func (at *way) take(fd int, remote netip.AddrPort) {
	local, err := socket.Local(fd)
	if err != nil || !remote.IsValid() {
		_ = unix.Close(fd)
		return
	}
	at.line.server.Serve(fd, local, remote)
}
