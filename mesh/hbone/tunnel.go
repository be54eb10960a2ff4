package hbone

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
)

const (
	settingsTimeout = 10 * time.Second
	pingInterval    = 10 * time.Second // from the answer to the next
	pingTimeout     = 20 * time.Second
	spareIdle       = 5 * time.Second // of tunnels that only a burst needed
	closeTimeout    = time.Second     // for what is still under way when a tunnel ends
)

var (
	errUnprocessed = errors.New("the peer did not process the request")
	errClosed      = errors.New("tunnel closed")
	errIdle        = errors.New("tunnel idle")
	errPing        = errors.New("peer does not answer pings")
	errSettings    = errors.New("peer sends no HTTP/2 settings")
	errNoStreams   = errors.New("peer allows no streams")
)

// tunnelConfig is what a tunnel is made of. All functions are called on the loop.
type tunnelConfig struct {
	loop   *loop.Loop
	role   h2.Role
	limits h2.Config              // the windows and frame size that we announce
	max    int                    // streams at once that we open, or allow
	idle   time.Duration          // client: how long to live without streams; 0 means for ever
	spare  func(*tunnel) bool     // client: tells that another tunnel to the peer is used first; it may be nil
	accept func(*Stream, Request) // server: decides a CONNECT
	fault  func(error)            // server: hears of requests that are none, and of what broke the tunnel; it may be nil
	ended  func(*tunnel)          // hears of the end, when nothing of the tunnel is left
	remote netip.AddrPort         // of the connection
	local  netip.AddrPort         // of the connection
}

// tunnel is one connection with its streams. Apart from its socket it is a plain value between two records: the keys with
// their counters, the HTTP/2 state, what came of the next record, what waits to be sent.
type tunnel struct {
	tunnelConfig
	fd    int
	peer  identity.Workload // proven by its certificate
	chain []*x509.Certificate
	// expiry is when the peer's certificate or ours has expired, by the wall clock. Then the tunnel takes no new streams: they go
	// through one that is proven anew. Those that run go on, as they do after any other proof was renewed.
	expiry time.Time

	reader *record.Reader
	writer *record.Writer
	core   *h2.Conn

	streams  map[uint32]*Stream
	touched  []*Stream // that got data in this turn
	ends     []*Stream // whose peers have ended in this turn
	single   bool      // ends with its first stream
	draining bool      // ends when the last stream does
	err      error     // why the tunnel is dead, nil while it lives
	farewell error     // what the peer's GOAWAY said, if it was unfriendly

	// How bytes move; driver.go.
	in, out  loop.Task
	last     loop.Task // passes ends on, after what is sent
	partial  []byte    // the beginning of a record
	unsent   []byte    // sealed bytes that the socket didn't take
	held     []byte    // the loop's buffer that unsent is part of, or nil
	blocked  bool      // the socket takes no more for now
	ending   bool      // a read that falls short isn't the last: the peer has ended, or sent urgent data
	said     bool      // the last record is made: an alert
	deaf     bool      // the peer sends no more
	mute     bool      // we send no more
	closed   bool      // the socket is closed
	gone     bool      // ended was called
	writeErr error     // why nothing can be sent, while it isn't the end yet

	clock     loop.Timer
	born      time.Time
	idleSince time.Time // zero while there are streams
	pinged    bool      // a PING is unanswered
	pingTime  time.Time // when it was sent, or when the next is due
}

// newTunnel makes a tunnel of a connection whose handshake is done.
func newTunnel(cfg tunnelConfig, fd int, with shaken) *tunnel {
	now := cfg.loop.Now()
	limits := cfg.limits
	limits.Role = cfg.role
	if cfg.role == h2.Server {
		limits.MaxStreams = uint32(cfg.max)
	}
	t := &tunnel{
		tunnelConfig: cfg, fd: fd, peer: with.peer, chain: with.keys.State.PeerCertificates, expiry: with.expiry,
		reader: with.keys.Reader, writer: with.keys.Writer,
		core: h2.New(limits), streams: make(map[uint32]*Stream), partial: with.early,
		born: now, idleSince: now, pingTime: now.Add(pingInterval),
	}
	t.in.Run, t.out.Run, t.last.Run, t.clock.Run = t.receive, t.send, t.passEnds, t.tick
	if err := t.loop.Watch(fd, t); err != nil {
		t.broken(err)
	}
	t.schedule()
	t.loop.Input(&t.in)
	t.flush()
	return t
}

// Check tells why a connection with a peer of these certificates, the leaf first, must not go on, or nil.
type Check func(chain []*x509.Certificate) error

func (t *tunnel) recheck(check Check) {
	if err := check(t.chain); err != nil {
		t.cut(err)
	}
}

// flush sends what waits, at the end of the turn.
func (t *tunnel) flush() { t.loop.Output(&t.out) }

// die makes err the end of the tunnel and of the streams that need it yet; those whose peer has ended may still be read.
func (t *tunnel) die(err error) {
	if t.err != nil {
		return
	}
	if t.farewell != nil && (t.mute || errors.Is(err, io.EOF)) {
		err = t.farewell
	} else if t.writeErr != nil && stageOf(err) != StageTLS {
		err = t.writeErr
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
	if t.fault != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errClosed) {
		t.fault(err)
	}
	t.loop.After(&t.clock, closeTimeout)
	t.flush()
}

// shutdown lets the running streams end and takes no new ones.
func (t *tunnel) shutdown() {
	if t.err == nil && !t.draining {
		t.draining = true
		t.core.Shutdown()
		t.flush()
		t.endIfDrained()
	}
}

// cut ends the tunnel and all its streams at once, for a reason of its owner's.
func (t *tunnel) cut(err error) {
	t.fault = nil
	t.die(err)
	for _, s := range t.streams {
		s.fail(err)
	}
}

// endIfDrained ends a tunnel without streams that takes no new ones. A server first lets the peer's requests arrive that were
// under way when it said so.
func (t *tunnel) endIfDrained() {
	if t.draining && len(t.streams) == 0 && t.err == nil && (t.role == h2.Client || t.core.GoneAway()) {
		t.die(errClosed)
	}
}

// handle acts on what the peer did.
func (t *tunnel) handle(ev h2.Event) {
	s := t.streams[ev.Stream]
	switch ev.Kind {
	case h2.EventHeaders:
		switch {
		case t.role == h2.Server && s == nil:
			t.acceptStream(ev)
		case t.role == h2.Client && s != nil && !s.answered:
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
			t.core.Consumed(ev.Stream, len(ev.Data))
		}
	case h2.EventReset:
		if s != nil {
			s.peerReset(ev)
		}
	case h2.EventGoAway:
		t.leave(ev.Stream, ev.Code)
	case h2.EventPong:
		if t.pinged && ev.Ping == uint64(t.pingTime.UnixNano())&^(1<<63) {
			t.pinged = false
			t.pingTime = t.loop.Now().Add(pingInterval)
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
	if t.role == h2.Server || t.draining || t.core.Limit() > 0 {
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
	if t.role == h2.Server {
		return // we open no streams
	}
	t.draining = true
	t.core.Shutdown()
	for id, s := range t.streams {
		if id > last {
			s.fail(errUnprocessed)
		}
	}
}

// acceptStream takes a new request.
func (t *tunnel) acceptStream(ev h2.Event) {
	req, err := parseRequest(ev.Fields)
	if err != nil {
		t.core.Refuse(ev.Stream, responseFields(400, Baggage{}), h2.ProtocolError)
		if t.fault != nil {
			t.fault(err)
		}
		return
	}
	s := t.newStream(ev.Stream)
	s.remoteEnd = ev.EndStream
	t.accept(s, req)
}

// forget takes a stream off the tunnel.
func (t *tunnel) forget(s *Stream) {
	if t.streams[s.id] != s {
		return
	}
	delete(t.streams, s.id)
	if len(t.streams) > 0 {
		return
	}
	t.draining = t.draining || t.single
	if t.idle > 0 {
		t.idleSince = t.loop.Now()
		t.schedule()
	}
	if t.draining || t.err != nil || t.writeErr != nil {
		t.flush() // it ends there
	}
}

// schedule sets the clock to what is due next.
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
	if end := t.idleEnd(); !end.IsZero() {
		earlier(end)
	}
	if !t.draining && !t.expiry.IsZero() {
		now := t.loop.Now()
		earlier(now.Add(t.expiry.Sub(now))) // as the wall clock is now; when it was set, the next ping comes soon
	}
	t.loop.Set(&t.clock, next)
}

// idleEnd is when the tunnel has lived long enough without streams; zero while it has some, or may live for ever.
func (t *tunnel) idleEnd() time.Time {
	if t.idle <= 0 || t.idleSince.IsZero() {
		return time.Time{}
	}
	idle := t.idle
	if t.spare != nil && t.spare(t) {
		idle = min(idle, spareIdle)
	}
	return t.idleSince.Add(idle)
}

// tick does what is due.
func (t *tunnel) tick() {
	now := t.loop.Now()
	due := func(at time.Time) bool { return !now.Before(at) }
	switch {
	case t.err != nil:
		t.close()
		return
	case t.writeErr != nil:
		t.broken(t.writeErr)
		t.close()
		return
	case !t.core.Settled() && due(t.born.Add(settingsTimeout)):
		t.die(errSettings)
	case t.pinged && due(t.pingTime.Add(pingTimeout)):
		t.die(errPing)
	case !t.idleEnd().IsZero() && due(t.idleEnd()):
		t.die(errIdle)
	case t.expired(now):
		t.shutdown()
	case !t.pinged && due(t.pingTime):
		t.pinged, t.pingTime = true, now
		t.core.Tick()
		t.core.Ping(uint64(now.UnixNano()))
		t.flush()
	}
	t.schedule()
}

// expired tells that the tunnel should take no new streams any more, and doesn't know yet.
func (t *tunnel) expired(now time.Time) bool {
	return !t.draining && !t.expiry.IsZero() && !now.Before(t.expiry)
}

// room returns how many streams the tunnel takes in all.
func (t *tunnel) room() int { return min(t.max, t.core.Limit()) }

// explain makes a DialError of what broke a tunnel before it was of any use. With TLS 1.3 a client learns only then that its
// certificate was refused.
func (t *tunnel) explain(err error) error {
	if t.err == nil || !errors.Is(err, t.err) || (t.core.Settled() && !errors.Is(t.err, errNoStreams)) {
		return err
	}
	return &DialError{Stage: stageOf(t.err), Addr: t.remote, Err: t.err}
}

// stageOf tells a broken tunnel's stage: with TLS 1.3 a client hears only after its handshake that it was refused.
func stageOf(err error) Stage {
	if errors.As(err, new(record.RemoteAlert)) {
		return StageTLS
	}
	return StageHTTP2
}
