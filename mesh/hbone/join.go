package hbone

import (
	"io"
	"net"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/relay"
)

// past is a deadline that is over, to wake whoever waits for a socket.
var past = time.Unix(1, 0)

// joined is a stream's other side: the application's connection. What comes from the tunnel is written to it at once by the
// tunnel's reader, as far as that doesn't have to wait; the rest goes through the stream's backlog and a goroutine that lives
// as long as there is some. What goes to the tunnel is read by one goroutine, which also ends the whole.
type joined struct {
	s       *Stream
	app     *relay.Socket
	session *relay.Session

	// Guarded by the tunnel's mu.
	writing bool // the tunnel's reader writes to app, without mu
	pouring bool // the backlog's goroutine runs
	shut    bool // app got its FIN
}

// Join relays between the application's connection and the stream, takes both over and returns at once. Sent counts bytes
// from app to the stream, Received those from the stream to app. It calls done exactly once, from its own goroutine.
func (s *Stream) Join(app *net.TCPConn, done func(relay.Result)) *relay.Session {
	j := &joined{s: s}
	j.session = relay.NewSession(func(reason error) { s.abort(reason, h2.ConnectError) })
	socket, err := relay.NewSocket(app)
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if err != nil {
		s.fail(err)
	}
	j.app = socket
	s.joined = j
	_ = app.SetDeadline(time.Time{}) // whatever came before is over
	j.pour()
	j.interrupt() // if the stream ended before this
	s.t.spawn(func() { j.run(app, done) })
	return j.session
}

// run reads from app until it ends, waits for the other direction, and closes both.
func (j *joined) run(app *net.TCPConn, done func(relay.Result)) {
	err := j.send()
	j.s.t.mu.Lock()
	if err != nil && j.s.sendErr == nil {
		j.abort(err)
	}
	for j.s.err == nil && !j.shut || j.pouring || j.writing {
		j.s.changed.Wait()
	}
	switch {
	case j.s.err != nil:
		err = j.s.err
	case err != nil: // the peer read no more: what app still sends is answered with a reset by its kernel
		err = j.s.sendErr
	}
	aborted := j.s.err != nil
	j.s.t.forget(j.s)
	if j.s.cancel != nil {
		j.s.cancel()
	}
	j.s.t.mu.Unlock()
	if aborted {
		_ = app.SetLinger(0)
	}
	_ = app.Close()
	sent, received := j.session.Counts()
	done(relay.Result{Sent: sent, Received: received, Err: err})
}

// send moves bytes from app to the stream until app ends.
func (j *joined) send() error {
	if j.app == nil {
		return net.ErrClosed
	}
	for {
		buffer, err := j.app.Receive()
		if err == io.EOF {
			return j.s.finish()
		}
		if err != nil {
			return err
		}
		n, err := j.s.write(buffer.Bytes(), nil)
		buffer.Release()
		j.session.AddSent(n)
		if err != nil {
			return err
		}
	}
}

// abort resets the stream because of app. It is called with mu held.
func (j *joined) abort(err error) {
	if j.s.err != nil {
		return
	}
	j.s.t.core.Reset(j.s.id, h2.ConnectError)
	j.s.fail(err)
	j.s.t.kick()
}

// deliver writes what it can of p without waiting, and returns the rest. It is called by the tunnel's reader with mu held,
// and lets go of it while it writes.
func (j *joined) deliver(p []byte) (rest []byte) {
	if j.pouring || j.s.err != nil || !j.s.in.empty() {
		return p
	}
	j.writing = true
	j.s.t.mu.Unlock()
	n, err := j.app.TryWrite(p)
	j.s.t.mu.Lock()
	j.writing = false
	j.session.AddReceived(n)
	j.s.t.core.Consumed(j.s.id, n)
	if err != nil {
		j.abort(err)
	}
	if j.s.err != nil {
		j.s.changed.Broadcast() // run may wait for the end of this
		return nil
	}
	return p[n:]
}

// pour starts the backlog's goroutine when there is something for it, and ends app's direction when all is written. It is
// called with mu held.
func (j *joined) pour() {
	switch {
	case j.pouring || j.s.err != nil:
	case !j.s.in.empty():
		j.pouring = true
		j.s.t.spawn(j.pourAll)
	case j.s.remoteEnd && !j.shut:
		j.shut = true
		_ = j.app.CloseWrite() // that app is gone shows when it is read
		j.s.changed.Broadcast()
	}
}

// pourAll writes the backlog to app.
func (j *joined) pourAll() {
	t := j.s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for j.s.err == nil && !j.s.in.empty() {
		c := j.s.in.pop()
		t.mu.Unlock()
		n, err := j.app.Write(c.bytes[c.start:c.end])
		chunks.Put(c)
		t.mu.Lock()
		j.session.AddReceived(n)
		t.core.Consumed(j.s.id, n)
		if err != nil {
			j.abort(err)
		}
		t.kick()
	}
	j.pouring = false
	j.pour()
	j.s.changed.Broadcast()
}

// interrupt wakes whoever waits for app, after the stream's end or our direction's. It is called with mu held.
func (j *joined) interrupt() {
	switch {
	case j.app == nil:
	case j.s.err != nil:
		_ = j.app.SetDeadline(past)
	case j.s.sendErr != nil:
		_ = j.app.SetReadDeadline(past)
	}
}
