package hbone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/record"
)

const (
	handshakeTimeout = 10 * time.Second
	maxEarly         = 64 << 10 // bytes that are read before the handshake has ended
	readEarly        = 4 << 10  // bytes per read meanwhile
)

var errHandshakeTimeout = errors.New("the peer does not finish the handshake in time")

// handshake makes the TLS handshake on a loop's socket; crypto/tls runs beside the loop. It owns the socket from start until it succeeds.
type handshake struct {
	loop   *loop.Loop
	fd     int // set by start
	role   record.Role
	parent context.Context
	config func(context.Context) (*tls.Config, error) // may wait; called in a goroutine
	check  Check                                      // of what may have changed since the configuration was made; it may be nil
	done   func(shaken)
	closed func() // hears that a failed handshake's socket is closed; it may be nil

	started   bool // there is a socket
	ctx       context.Context
	cancel    context.CancelFunc
	tls       *record.Handshake // nil until it has begun
	known     atomic.Bool       // the configuration is there
	own       *x509.Certificate // what proves us; for who has the result
	early     []byte            // received, and not taken by tls
	unsent    []byte
	full      bool // nothing was read for want of room
	peerEnded bool // the peer sends no more
	ended     bool
	released  bool // the socket is closed, or a tunnel's
	input     loop.Task
	timer     loop.Timer
}

// shaken is a handshake's outcome.
type shaken struct {
	keys   *record.Result
	peer   identity.Workload
	expiry time.Time // of the certificate that expires first, the peer's or ours
	early  []byte    // what came after the handshake
	stage  Stage     // of the error
	err    error
}

// prepare comes before start. A client makes its hello, which can happen while its connection is made. A server waits for the client's
// first record, so that peers who say nothing cost little.
func (h *handshake) prepare() {
	h.ctx, h.cancel = context.WithTimeout(h.parent, handshakeTimeout)
	if h.role == record.Client {
		h.begin()
	}
}

// forget ends what was prepared when there will be no start.
func (h *handshake) forget(err error) {
	h.ended = true
	h.cancel()
	h.tls.Abort(err)
}

// start begins the handshake.
func (h *handshake) start(fd int) {
	h.fd, h.started = fd, true
	h.input.Run = h.receive
	h.timer.Run = h.timeout
	h.loop.After(&h.timer, handshakeTimeout)
	if h.tls != nil {
		_ = h.loop.Post(h.step) // the hello may be there
	}
	if err := h.loop.Watch(h.fd, h); err != nil {
		_ = h.loop.Post(func() { h.fail(StageTLS, err) })
	}
}

func (h *handshake) timeout() {
	if h.nameless() {
		h.fail(StageIdentity, context.DeadlineExceeded)
		return
	}
	h.fail(StageTLS, errHandshakeTimeout)
}

// begin has the configuration asked for where crypto/tls then begins: going to another goroutine and back costs as much as a signature.
func (h *handshake) begin() {
	h.tls = record.Start(func() (*tls.Config, error) {
		config, err := h.config(h.ctx)
		if err == nil {
			h.own = leaf(config)
			h.known.Store(true)
		}
		return config, err
	}, h.role, func() { _ = h.loop.Post(h.step) })
}

// nameless tells that it has begun, but what proves us isn't there.
func (h *handshake) nameless() bool { return h.tls != nil && !h.known.Load() }

// Ready implements loop.Handler.
func (h *handshake) Ready(events loop.Events) {
	if events.Has(loop.Readable | loop.PeerEnd | loop.Broken) {
		h.loop.Input(&h.input)
	}
	if events.Has(loop.Writable) {
		h.send()
	}
}

// receive reads what there is and gives it to crypto/tls.
func (h *handshake) receive() {
	if h.ended {
		h.drain()
		return
	}
	err := h.read()
	if h.tls == nil && wholeRecord(h.early) {
		h.begin()
	}
	if err != nil && h.tls == nil {
		h.fail(StageTLS, err)
		return
	}
	h.peerEnded = h.peerEnded || err != nil // what the peer said before may be enough, or tell why
	h.feed()
}

// read reads until nothing comes, or more than a handshake needs. The error says that nothing more will come.
func (h *handshake) read() error {
	for {
		if h.full = len(h.early) >= maxEarly; h.full {
			return nil
		}
		var space [readEarly]byte
		n, err := loop.Read(h.fd, space[:])
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
		if n == 0 {
			return fmt.Errorf("TLS handshake: %w", io.ErrUnexpectedEOF)
		}
		h.early = append(h.early, space[:n]...)
	}
}

func (h *handshake) feed() {
	if h.tls == nil {
		return
	}
	h.early = h.early[h.tls.Feed(h.early):]
	if h.full && len(h.early) < maxEarly {
		h.loop.Input(&h.input)
	}
	if h.peerEnded && len(h.early) == 0 {
		h.tls.FeedEnd()
	}
}

// wholeRecord tells that p has at least one TLS record, or what is none.
func wholeRecord(p []byte) bool {
	return len(p) >= record.HeaderLen && (p[0] != 22 || len(p) >= record.HeaderLen+int(p[3])<<8+int(p[4]))
}

// step goes on after crypto/tls has.
func (h *handshake) step() {
	if h.ended || !h.started {
		return
	}
	done := h.tls.Done() // before Output is asked for, so that nothing comes after it
	h.feed()
	h.unsent = append(h.unsent, h.tls.Output()...)
	h.send()
	if !done {
		return
	}
	keys, err := h.tls.Result()
	if err != nil {
		stage := StageTLS
		if h.nameless() {
			stage = StageIdentity
		}
		h.fail(stage, err)
		return
	}
	if len(h.unsent) > 0 { // a socket that doesn't even take the first kilobytes
		h.fail(StageTLS, errHandshakeTimeout)
		return
	}
	h.succeed(keys)
}

func (h *handshake) succeed(keys *record.Result) {
	peer, err := checkState(keys.State)
	if err == nil && h.check != nil {
		err = h.check(keys.State.PeerCertificates)
	}
	if err != nil {
		h.fail(StageTLS, err)
		return
	}
	h.end()
	h.released = true
	h.loop.Forget(h.fd)
	h.done(shaken{keys: keys, peer: peer, expiry: expiry(keys.State.PeerCertificates[0], h.own), early: append(keys.Rest, h.early...)})
}

// leaf returns what a configuration proves its owner with, or nil.
func leaf(config *tls.Config) *x509.Certificate {
	if len(config.Certificates) == 0 {
		return nil
	}
	return config.Certificates[0].Leaf
}

// expiry returns when the first of two certificates expires; the second may be nil. Those above them are for their authority to
// keep, which signs for no longer than they live.
func expiry(a, b *x509.Certificate) time.Time {
	if b != nil && b.NotAfter.Before(a.NotAfter) {
		return b.NotAfter
	}
	return a.NotAfter
}

// checkState checks what HBONE asks of a handshake.
func checkState(state tls.ConnectionState) (identity.Workload, error) {
	switch {
	case state.Version != tls.VersionTLS13:
		return identity.Workload{}, errors.New("TLS handshake: the peer does not speak TLS 1.3")
	case state.NegotiatedProtocol != "h2":
		return identity.Workload{}, errors.New("TLS handshake: the peer does not offer h2")
	}
	return mtls.PeerIdentity(state)
}

func (h *handshake) send() {
	for len(h.unsent) > 0 {
		n, err := loop.Write(h.fd, h.unsent)
		if err == unix.EAGAIN {
			return
		}
		if err != nil { // what the peer said before it closed may tell why
			h.unsent = nil
			h.loop.Input(&h.input)
			return
		}
		h.unsent = h.unsent[n:]
	}
}

// fail ends the handshake, and the connection soon.
func (h *handshake) fail(stage Stage, err error) {
	if h.ended {
		return
	}
	h.end()
	silent := h.tls == nil || h.nameless() // and has nothing to say
	if h.tls != nil {
		h.tls.Abort(err) // it may wait for bytes that are never fed any more
	}
	if silent || h.peerEnded {
		h.release()
	} else {
		h.linger()
	}
	h.done(shaken{stage: stage, err: err})
}

// linger has the peer hear why the handshake failed: if the socket were closed at once, what the peer has sent meanwhile would
// be answered with a reset, which takes back our last words.
func (h *handshake) linger() {
	_ = unix.Shutdown(h.fd, unix.SHUT_WR) // fails only on a dead connection
	h.timer.Run = h.release
	h.loop.After(&h.timer, closeTimeout)
	h.loop.Input(&h.input)
}

// drain throws away what comes after the handshake has failed, until the peer ends as well.
func (h *handshake) drain() {
	if h.released {
		return
	}
	h.early = h.early[:0]
	if err := h.read(); err != nil {
		h.release()
	} else if h.full {
		h.loop.Input(&h.input)
	}
}

// release closes the socket of a failed handshake.
func (h *handshake) release() {
	if h.released {
		return
	}
	h.released = true
	h.loop.Stop(&h.timer)
	h.loop.Release(h.fd)
	if h.closed != nil {
		h.closed()
	}
}

// abandon ends the handshake and the connection at once.
func (h *handshake) abandon(err error) {
	h.fail(StageTLS, err)
	h.release()
}

func (h *handshake) end() {
	h.ended = true
	h.cancel()
	h.loop.Stop(&h.timer)
}
