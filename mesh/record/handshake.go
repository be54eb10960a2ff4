package record

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
)

// Handshake is a handshake made by crypto/tls for somebody who owns the socket: a goroutine runs it over memory, and ends with it.
// All methods may be called from any goroutine; none waits.
type Handshake struct {
	cancel context.CancelCauseFunc
	notify func()
	wire   *wire

	mu     sync.Mutex
	ended  bool
	result *Result
	err    error
}

// Result is what a handshake leaves. Nothing of crypto/tls's connection hangs on it.
type Result struct {
	// State says what was agreed and holds the peer's certificates; verified chains and what else crypto/tls keeps are left out.
	State  tls.ConnectionState
	Reader *Reader
	Writer *Writer
	// Rest is what was fed beyond the handshake: the first bytes for Reader.
	Rest []byte
}

// Start begins a handshake in role, with the configuration that config returns, which may wait: both happen in one other goroutine.
// TLS 1.3 is all that is accepted; tickets are neither sent nor kept. notify is called, from that goroutine, when Output has something
// and the peer is to speak next, when Feed has room again after it had not, and at the end; so it's called rarely, and a driver then
// looks at Output and Done.
func Start(config func() (*tls.Config, error), role Role, notify func()) *Handshake {
	ctx, cancel := context.WithCancelCause(context.Background())
	h := &Handshake{cancel: cancel, notify: notify, wire: newWire(notify)}
	go h.run(ctx, config, role)
	return h
}

func (h *Handshake) run(ctx context.Context, config func() (*tls.Config, error), role Role) {
	var result *Result
	configured, err := config()
	if err == nil {
		result, err = h.shake(ctx, configured, role)
	}
	rest := h.wire.end()
	if aborted := context.Cause(ctx); aborted != nil {
		err = aborted
	}
	if err == nil {
		result.Rest = rest
	} else {
		result = nil
	}
	h.cancel(nil)
	h.mu.Lock()
	h.ended, h.result, h.err = true, result, err
	h.mu.Unlock()
	h.notify()
}

func (h *Handshake) shake(ctx context.Context, config *tls.Config, role Role) (*Result, error) {
	secrets := &secrets{}
	defer secrets.clear()
	prepared, err := prepare(config, secrets)
	if err != nil {
		return nil, err
	}
	conn := tls.Server(h.wire, prepared)
	if role == Client {
		conn = tls.Client(h.wire, prepared)
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("tls handshake: %w", err)
	}
	result := &Result{State: trim(conn.ConnectionState())}
	ours, theirs, peer := secrets.client[:], secrets.server[:], Server
	if role == Server {
		ours, theirs, peer = theirs, ours, Client
	}
	result.Writer, err = NewWriter(State{Suite: result.State.CipherSuite, Secret: ours[:secrets.length]})
	if err != nil {
		return nil, err
	}
	result.Reader, err = NewReader(State{Suite: result.State.CipherSuite, Secret: theirs[:secrets.length]}, peer)
	return result, err
}

// Feed takes bytes from the peer and returns how many: all while there's room for a record. Those not taken are to be offered
// again when notify was called, or stay with the caller if the handshake has ended.
func (h *Handshake) Feed(p []byte) int { return h.wire.feed(p) }

// FeedEnd says that the peer will send no more. The handshake ends by itself if it still needs more than was fed.
func (h *Handshake) FeedEnd() { h.wire.feedEnd() }

// Output returns what is to be sent to the peer, once. There may be some after Done: the last flight, or the alert by which the
// peer learns why the handshake failed.
func (h *Handshake) Output() []byte { return h.wire.output() }

// Done tells that the handshake has ended.
func (h *Handshake) Done() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// Result returns what the handshake came to, once it's done.
func (h *Handshake) Result() (*Result, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		return nil, errors.New("result asked for before the handshake has ended")
	}
	return h.result, h.err
}

// Abort ends a handshake for a reason of the caller's, such as a deadline. notify may still be called.
func (h *Handshake) Abort(reason error) {
	h.cancel(reason)
	h.wire.abort()
}

// prepare makes the configuration of one handshake: config's, but of TLS 1.3 only, without tickets, and telling the secrets. A
// server's ticket would be the first record under the Writer's keys, and a client gets none once crypto/tls is gone.
func prepare(config *tls.Config, s *secrets) (*tls.Config, error) {
	if v := config.MaxVersion; v != 0 && v < tls.VersionTLS13 {
		return nil, fmt.Errorf("configuration allows %s at most, TLS 1.3 is needed", tls.VersionName(v))
	}
	c := config.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	c.SessionTicketsDisabled, c.ClientSessionCache = true, nil
	c.KeyLogWriter = &keyLog{secrets: s, next: config.KeyLogWriter}
	if choose := config.GetConfigForClient; choose != nil {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return nil, err
			}
			return prepare(chosen, s)
		}
	}
	return c, nil
}

// trim keeps what callers ask for of a connection's state, not what would keep handshake secrets and parsed chains alive.
func trim(s tls.ConnectionState) tls.ConnectionState {
	return tls.ConnectionState{
		Version:            s.Version,
		HandshakeComplete:  s.HandshakeComplete,
		CipherSuite:        s.CipherSuite,
		CurveID:            s.CurveID,
		NegotiatedProtocol: s.NegotiatedProtocol,
		ServerName:         s.ServerName,
		PeerCertificates:   s.PeerCertificates,
	}
}
