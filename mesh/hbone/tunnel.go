package hbone

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

const (
	handshakeTimeout = 10 * time.Second
	settingsTimeout  = 10 * time.Second
	pingInterval     = 10 * time.Second // from the answer to the next
	pingTimeout      = 20 * time.Second
	maxFaults        = 16 // bad requests that wait to be reported; of more, as from one who floods, the rest is left out
)

var (
	errUnprocessed = errors.New("the peer did not process the request")
	errClosed      = errors.New("tunnel closed")
	errIdle        = errors.New("tunnel idle")
	errPing        = errors.New("peer does not answer pings")
	errSettings    = errors.New("peer sends no HTTP/2 settings")
	errNoStreams   = errors.New("peer allows no streams")
)

// errReset is what the application on the other side did, or what was done to it.
func errReset(code h2.Code) error {
	return fmt.Errorf("peer reset the stream with %s: %w", code, syscall.ECONNRESET)
}

// tunnel is one connection with its streams. Its fields are guarded by mu but for those before it, which never change.
type tunnel struct {
	tunnelConfig
	gone chan struct{} // closed when the last goroutine has ended

	mu       sync.Mutex
	core     *h2.Conn
	streams  map[uint32]*Stream
	handlers int  // of accept that run
	running  int  // goroutines
	left     bool // gone is closed
	cutOff   bool // by the owner, who waits for no more than what runs
	flushing bool
	draining bool  // ends when the last stream does
	ending   bool  // the socket is closed once everything is sent
	closed   bool  // the socket is closed
	err      error // why the tunnel is dead, nil while it lives
	farewell error // what the peer's GOAWAY said, if it was unfriendly
	writeErr error // why nothing can be sent, while it isn't the end yet

	faults    []error // bad requests that wait to be reported
	reporting bool    // by a goroutine

	born      time.Time
	idleSince time.Time // zero while there are streams
	pinged    bool      // a PING is unanswered
	pingTime  time.Time // when it was sent, or when the next is due
}

// tunnelConfig is what a tunnel is made of. The functions are called without the tunnel's mu.
type tunnelConfig struct {
	socket *packed
	conn   net.Conn               // TLS over socket
	peer   identity.Workload      // server: the client's
	max    int                    // streams at once that we open, or allow
	idle   time.Duration          // client: how long to live without streams
	accept func(*Stream, Request) // server: decides a CONNECT, in a goroutine of its own
	fault  func(error)            // server: hears of requests that are none, and of what broke the tunnel
	ended  func(*tunnel)          // hears of the end, when every goroutine has ended
}

// newTunnel starts a tunnel on a connection whose handshake is done.
func newTunnel(cfg tunnelConfig) *tunnel {
	now := time.Now()
	core := h2.Config{Role: h2.Client}
	if cfg.accept != nil {
		core = h2.Config{Role: h2.Server, MaxStreams: uint32(cfg.max)}
	}
	t := &tunnel{
		tunnelConfig: cfg, gone: make(chan struct{}), core: h2.New(core), streams: make(map[uint32]*Stream),
		born: now, idleSince: now, pingTime: now.Add(pingInterval),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.schedule()
	t.spawn(t.read)
	t.kick()
	return t
}

// spawn runs f in a goroutine that the tunnel's owner waits for. The last one ends the tunnel, unless there are streams that
// somebody may join yet. It is called with mu held.
func (t *tunnel) spawn(f func()) {
	t.running++
	go func() {
		f()
		t.mu.Lock()
		t.running--
		last := t.running == 0 && t.err != nil && (len(t.streams) == 0 || t.cutOff) && !t.left
		t.left = t.left || last
		t.mu.Unlock()
		if last {
			t.ended(t)
			close(t.gone)
		}
	}()
}

// die makes err the end of the tunnel and of the streams that need it yet; those whose peer has ended may still be read. It is
// called with mu held.
func (t *tunnel) die(err error) {
	if t.err != nil {
		return
	}
	if t.farewell != nil && (t.writeErr != nil || errors.Is(err, io.EOF)) {
		err = t.farewell
	}
	t.err = err
	code := h2.NoError
	if errors.Is(err, errSettings) {
		code = h2.SettingsTimeout
	}
	t.core.Close(code, "") // unless the core itself found the fault and said so
	for _, s := range t.streams {
		s.orphan(fmt.Errorf("tunnel ended: %w", err))
	}
	t.ending = true
	_ = t.socket.SetDeadline(time.Now().Add(closeTimeout))
	t.kick()
}

// shutdown lets the running streams end and takes no new ones.
func (t *tunnel) shutdown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil && !t.draining {
		t.draining = true
		t.core.Shutdown()
		t.kick()
		t.endIfDrained()
	}
}

// cut ends the tunnel and all its streams at once.
func (t *tunnel) cut(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.die(err)
	for _, s := range t.streams {
		s.fail(err)
	}
	t.cutOff = true
	t.endIfOver()
}

// endIfOver has a dead tunnel end when no goroutine is there whose end would do it. It is called with mu held.
func (t *tunnel) endIfOver() {
	if t.err != nil && t.running == 0 && !t.left {
		t.spawn(func() {})
	}
}

// cutAll ends an owner's tunnels and waits for their goroutines and the owner's.
func cutAll(tunnels []*tunnel, wait *sync.WaitGroup) {
	for _, t := range tunnels {
		t.cut(errClosed)
	}
	wait.Wait()
	for _, t := range tunnels {
		<-t.gone
	}
}

// endIfDrained ends a tunnel that has nothing more to do. A server that announced its end waits for the round trip that lets no
// stream get lost.
func (t *tunnel) endIfDrained() {
	if t.err == nil && t.draining && len(t.streams) == 0 && t.core.GoneAway() {
		t.die(errClosed)
	}
}

// handle acts on an event. It is called with mu held, which it may let go of while it writes to an application.
func (t *tunnel) handle(ev h2.Event) {
	s := t.streams[ev.Stream]
	switch ev.Kind {
	case h2.EventHeaders:
		switch {
		case s == nil && t.accept != nil:
			t.acceptStream(ev)
		case s != nil && !s.answered && t.accept == nil:
			s.response(ev)
		default: // RFC 9113 section 8.5: a connected stream carries data only
			t.core.Refuse(ev.Stream, nil, h2.ProtocolError)
			if s != nil {
				s.fail(errors.New("peer sent headers on a connected stream"))
			}
		}
	case h2.EventData:
		if s != nil {
			s.deliver(ev.Data, ev.EndStream)
		} else {
			t.core.Reset(ev.Stream, h2.Cancel)
		}
	case h2.EventReset:
		if s != nil {
			s.peerReset(ev)
		}
	case h2.EventGoAway:
		t.leave(ev.Stream, ev.Code)
	case h2.EventPong:
		if t.pinged && ev.Ping == uint64(t.pingTime.UnixNano()) {
			t.pinged = false
			t.pingTime = time.Now().Add(pingInterval)
			t.schedule()
		}
	case h2.EventSettings:
		t.endIfBarred()
		t.schedule()
	}
}

// endIfBarred ends a tunnel whose peer allows no streams, rather than keep one that may never be of use. If there are connections,
// they go on.
func (t *tunnel) endIfBarred() {
	if t.accept != nil || t.draining || t.core.Limit() > 0 {
		return
	}
	for _, s := range t.streams {
		if s.answered {
			t.draining = true
			t.core.Shutdown()
			return
		}
	}
	t.die(errNoStreams)
}

// leave obeys a GOAWAY: streams above last were not processed and are safe to try elsewhere.
func (t *tunnel) leave(last uint32, code h2.Code) {
	if code != h2.NoError {
		t.farewell = fmt.Errorf("peer ended the tunnel with %s", code)
	}
	if t.accept != nil {
		return // we open no streams
	}
	t.draining = true
	t.core.Shutdown()
	for id, s := range t.streams {
		if id > last {
			s.fail(errUnprocessed)
			t.forget(s)
		}
	}
}

// acceptStream takes a new request.
func (t *tunnel) acceptStream(ev h2.Event) {
	req, err := parseRequest(ev.Fields)
	switch {
	case err != nil:
		t.core.Refuse(ev.Stream, responseFields(400, Baggage{}), h2.ProtocolError)
		t.report(err)
		return
	case t.handlers >= 2*t.max: // handlers of streams that were reset still run
		t.core.Refuse(ev.Stream, nil, h2.RefusedStream)
		return
	}
	s := t.newStream(ev.Stream)
	s.remoteEnd = ev.EndStream
	t.handlers++
	t.spawn(func() {
		t.accept(s, req)
		t.mu.Lock()
		t.handlers--
		t.mu.Unlock()
	})
}

// report tells of a bad request, by one goroutine for all of them. It is called with mu held.
func (t *tunnel) report(err error) {
	if len(t.faults) == maxFaults {
		return
	}
	t.faults = append(t.faults, err)
	if !t.reporting {
		t.reporting = true
		t.spawn(t.reportAll)
	}
}

func (t *tunnel) reportAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.faults) > 0 {
		faults := t.faults
		t.faults = nil
		t.mu.Unlock()
		for _, err := range faults {
			t.fault(err)
		}
		t.mu.Lock()
	}
	t.reporting = false
}

// forget takes a stream off the tunnel. It is called with mu held.
func (t *tunnel) forget(s *Stream) {
	if t.streams[s.id] != s {
		return
	}
	delete(t.streams, s.id)
	if len(t.streams) > 0 {
		return
	}
	t.endIfOver()
	if t.idle > 0 {
		t.idleSince = time.Now()
		t.schedule()
	}
	t.endIfDrained()
}

// schedule sets the read deadline to what is due next.
func (t *tunnel) schedule() {
	if t.err != nil || t.writeErr != nil {
		return
	}
	next := t.pingTime
	if t.pinged {
		next = t.pingTime.Add(pingTimeout)
	}
	earlier := func(due time.Time) {
		if due.Before(next) {
			next = due
		}
	}
	if !t.core.Settled() {
		earlier(t.born.Add(settingsTimeout))
	}
	if t.idle > 0 && !t.idleSince.IsZero() {
		earlier(t.idleSince.Add(t.idle))
	}
	_ = t.socket.SetReadDeadline(next)
}

// tick does what is due. An error is the tunnel's end.
func (t *tunnel) tick(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	due := func(at time.Time) bool { return !now.Before(at) }
	switch {
	case t.err != nil:
		return t.err
	case t.writeErr != nil:
		return t.writeErr
	case !t.core.Settled() && due(t.born.Add(settingsTimeout)):
		return errSettings
	case t.pinged && due(t.pingTime.Add(pingTimeout)):
		return errPing
	case t.idle > 0 && !t.idleSince.IsZero() && due(t.idleSince.Add(t.idle)):
		return errIdle
	case !t.pinged && due(t.pingTime):
		t.pinged, t.pingTime = true, now
		t.core.Tick()
		t.core.Ping(uint64(now.UnixNano()))
		t.kick()
	}
	t.schedule()
	return nil
}

// fate returns why the tunnel ended, or nil while it lives.
func (t *tunnel) fate() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// room returns how many streams the tunnel takes in all.
func (t *tunnel) room() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return min(t.max, t.core.Limit())
}

// explain makes a DialError of what broke a tunnel before it was of any use. With TLS 1.3 a client learns only then that its
// certificate was refused.
func (t *tunnel) explain(err error, addr netip.AddrPort) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil || !errors.Is(err, t.err) || (t.core.Settled() && !errors.Is(t.err, errNoStreams)) {
		return err
	}
	return &DialError{Stage: stageOf(t.err), Addr: addr, Err: t.err}
}
