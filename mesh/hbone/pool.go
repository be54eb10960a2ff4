package hbone

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/loop"
)

const (
	maxStreams  = 100 // Envoy's limit, which no tunnel exceeds
	maxAttempts = 4   // tunnels that a request tries when each says that it did not process it
	maxBusy     = 4   // tunnels to one peer that are opened because those there are busy, rather than full
	maxRounds   = 20  // dials that a request waits for when others are faster to take the room that they make
)

// Target names the tunnel that a connection needs.
type Target struct {
	Source   identity.Workload   // whose certificate proves us
	Expected []identity.Workload // the peer must prove one of these
	Addr     netip.AddrPort      // what to dial
}

// PoolConfig makes a Pool. Loop, Dial and TLS are required.
type PoolConfig struct {
	Loop *loop.Loop
	// Dial begins the TCP connection of a tunnel and calls done on the loop, once and after Dial has returned: with a connected,
	// non-blocking socket, or with an error, unless cancel was called before. An error that is known at once is returned instead.
	Dial func(addr netip.AddrPort, done func(fd int, err error)) (cancel func(), err error)
	// TLS gives the configuration that proves source and accepts expected only. It is asked once per tunnel, in a goroutine.
	TLS func(ctx context.Context, source identity.Workload, expected []identity.Workload) (*tls.Config, error)
	// Check is asked once more about every peer before its tunnel begins, on the loop, so that Cut misses none. It may be nil.
	Check Check

	Limits      h2.Config     // windows and frame size; zero fields mean the defaults
	MaxStreams  int           // streams per tunnel before another is opened; 0 means 100, the most; the peer's own limit is kept as well
	IdleTimeout time.Duration // how long a tunnel without streams is kept; 0 means 5 minutes
}

// Pool opens tunnels and shares them among the streams that may share them: same source, same expected peers, same address.
// A pool and all that comes of it belongs to one loop, on whose thread its methods are called.
type Pool struct {
	cfg    PoolConfig
	ctx    context.Context // of dials
	cancel context.CancelFunc
	shared map[key]*share
	single map[*share]struct{} // what ConnectOver made
	closed bool
	gone   func() // after Close, when nothing is left
}

// key is what streams of one tunnel have in common.
type key struct {
	source   identity.Workload
	expected string // identities, in order
	addr     netip.AddrPort
}

func (t Target) key() key {
	if len(t.Expected) == 1 {
		return key{t.Source, t.Expected[0].String(), t.Addr}
	}
	names := make([]string, len(t.Expected))
	for i, id := range t.Expected {
		names[i] = id.String()
	}
	slices.Sort(names)
	return key{t.Source, strings.Join(names, " "), t.Addr}
}

// share is the tunnels of one key, and the dials for more.
type share struct {
	target  Target
	tunnels []*tunnel
	dials   []*dial
	room    int  // streams that a tunnel takes, as far as is known
	single  bool // for one stream only
}

// NewPool makes an empty pool.
func NewPool(cfg PoolConfig) *Pool {
	if cfg.MaxStreams <= 0 || cfg.MaxStreams > maxStreams {
		cfg.MaxStreams = maxStreams
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 5 * time.Minute
	}
	p := &Pool{cfg: cfg, shared: make(map[key]*share), single: make(map[*share]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Attempt is a Connect that isn't done yet.
type Attempt struct {
	pool   *Pool
	key    key
	target Target
	share  *share // with ConnectOver
	fields []hpack.HeaderField
	tries  int
	rounds int
	dial   *dial   // waited for
	stream *Stream // whose answer is waited for
	done   func(*Stream, error)
}

// Connect opens a stream to req.Authority through a tunnel to target, and calls done when the peer has answered 200, or with a
// *DialError, a *StatusError, or what broke the tunnel. It is called once, after Connect has returned, unless Cancel comes
// first. There is no deadline but those of dialling: the caller's timer calls Cancel.
func (p *Pool) Connect(target Target, req Request, done func(*Stream, error)) *Attempt {
	a := &Attempt{pool: p, key: target.key(), target: target, fields: req.fields(), done: done}
	if req.Authority.isZero() {
		a.failSoon(errors.New("connect without a destination"))
	} else {
		a.try()
	}
	return a
}

// ConnectOver is Connect through a tunnel of its own, over a connected, non-blocking socket that it takes over. target.Addr is
// for errors only. The tunnel ends with the stream.
func (p *Pool) ConnectOver(fd int, target Target, req Request, done func(*Stream, error)) *Attempt {
	sh := &share{target: target, room: 1, single: true}
	a := &Attempt{pool: p, target: target, share: sh, fields: req.fields(), done: done, tries: maxAttempts}
	if p.closed {
		_ = unix.Close(fd)
		a.failSoon(errClosed)
		return a
	}
	d := &dial{pool: p, share: sh}
	d.add(a)
	sh.dials = []*dial{d}
	p.single[sh] = struct{}{}
	d.shake(fd)
	return a
}

// Cancel gives the attempt up; done isn't called any more.
func (a *Attempt) Cancel() {
	a.done = nil
	if d := a.dial; d != nil {
		a.dial = nil
		d.waiters = slices.DeleteFunc(d.waiters, func(other *Attempt) bool { return other == a })
	}
	if s := a.stream; s != nil {
		a.stream, s.waiting = nil, nil
		s.t.forget(s)
		s.abort(errClosed, h2.Cancel)
	}
}

// try opens a stream on a tunnel that has room, or else waits for one. One dial serves as many waiters as its tunnel will have
// streams.
func (a *Attempt) try() {
	p := a.pool
	if p.closed {
		a.failSoon(errClosed)
		return
	}
	sh := p.shareOf(a)
	for _, t := range sh.byLoad() {
		s, err := t.open(a.fields)
		switch {
		case err == nil:
			a.stream, s.waiting = s, a
			sh.relieve(t, a)
			return
		case errors.Is(err, h2.ErrHeaderLimit):
			a.failSoon(err)
			return
		case errors.Is(err, h2.ErrMaxStreams):
			sh.room = t.room()
		}
	}
	if a.rounds++; a.rounds > maxRounds || sh.single {
		a.failSoon(&DialError{Stage: StageHTTP2, Addr: a.target.Addr, Err: h2.ErrMaxStreams})
		return
	}
	a.wait(sh)
}

func (p *Pool) shareOf(a *Attempt) *share {
	if a.share != nil {
		return a.share
	}
	sh := p.shared[a.key]
	if sh == nil {
		sh = &share{target: a.target, room: p.cfg.MaxStreams}
		sh.target.Expected = slices.Clone(a.target.Expected)
		p.shared[a.key] = sh
	}
	return sh
}

// byLoad returns the tunnels in the order in which they are filled: those that keep up before those that don't.
func (sh *share) byLoad() []*tunnel {
	if len(sh.tunnels) < 2 || !sh.tunnels[0].blocked {
		return sh.tunnels
	}
	ordered := slices.Clone(sh.tunnels)
	slices.SortStableFunc(ordered, func(a, b *tunnel) int { return cmp.Compare(busy(a), busy(b)) })
	return ordered
}

// busy is 1 for a tunnel that has more to send than its connection takes.
func busy(t *tunnel) int {
	if t.blocked {
		return 1
	}
	return 0
}

// relieve opens another tunnel beside a busy one that a stream has just joined for want of a better: the next will have it.
func (sh *share) relieve(t *tunnel, a *Attempt) {
	if t.blocked && len(sh.tunnels) < maxBusy && len(sh.dials) == 0 && !sh.single {
		a.begin(sh)
	}
}

// wait joins the dial that has room, or begins one.
func (a *Attempt) wait(sh *share) {
	for _, d := range sh.dials {
		if len(d.waiters) < sh.room {
			d.add(a)
			return
		}
	}
	a.begin(sh).add(a)
}

// begin begins a dial.
func (a *Attempt) begin(sh *share) *dial {
	d := &dial{pool: a.pool, key: a.key, share: sh}
	sh.dials = append(sh.dials, d)
	d.start()
	return d
}

// dialled takes the outcome of the dial that was waited for.
func (a *Attempt) dialled(err error) {
	a.dial = nil
	if err != nil {
		a.finish(nil, err)
		return
	}
	a.try()
}

// finish takes the answer, or why there is none; it tries another tunnel if the peer did not process the request.
func (a *Attempt) finish(s *Stream, err error) {
	on := a.stream
	a.stream = nil
	if errors.Is(err, errUnprocessed) {
		if a.tries++; a.tries < maxAttempts {
			a.try()
			return
		}
	} else if err != nil && on != nil {
		err = on.t.explain(err)
	}
	if done := a.done; done != nil {
		a.done = nil
		done(s, err)
	}
}

// failSoon fails the attempt when Connect has returned.
func (a *Attempt) failSoon(err error) {
	_ = a.pool.cfg.Loop.Post(func() { a.finish(nil, err) })
}

// ended takes a dead tunnel off.
func (p *Pool) ended(k key, sh *share, t *tunnel) {
	sh.tunnels = slices.DeleteFunc(sh.tunnels, func(other *tunnel) bool { return other == t })
	p.tidy(k, sh)
}

func (p *Pool) tidy(k key, sh *share) {
	if len(sh.tunnels) > 0 || len(sh.dials) > 0 {
		return
	}
	delete(p.single, sh)
	if p.shared[k] == sh {
		delete(p.shared, k)
	}
	p.tellGone()
}

// Retain opens no more streams on tunnels whose target isn't wanted any more; they end with their last stream.
func (p *Pool) Retain(wanted func(Target) bool) {
	for _, sh := range p.shared {
		if wanted(sh.target) {
			continue
		}
		for _, t := range slices.Clone(sh.tunnels) {
			t.shutdown()
		}
	}
}

// Cut ends the tunnels whose peer's certificates are found wanting, with the error that check returns.
func (p *Pool) Cut(check Check) {
	for _, t := range p.tunnels() {
		t.recheck(check)
	}
}

// OnGone calls gone when nothing is left of the pool. Call it after Close: peers get a second to hear of that.
func (p *Pool) OnGone(gone func()) {
	p.gone = gone
	p.tellGone()
}

// Close opens no more streams and cuts every tunnel.
func (p *Pool) Close() {
	p.closed = true
	p.cancel()
	for _, t := range p.tunnels() {
		t.cut(errClosed)
	}
	for _, d := range p.dials() {
		if d.stop != nil {
			d.stop()
		}
	}
}

func (p *Pool) tellGone() {
	if p.gone != nil && len(p.shared) == 0 && len(p.single) == 0 {
		gone := p.gone
		p.gone = nil
		gone()
	}
}

func (p *Pool) shares() []*share {
	return slices.AppendSeq(slices.Collect(maps.Values(p.shared)), maps.Keys(p.single))
}

func (p *Pool) tunnels() (all []*tunnel) {
	for _, sh := range p.shares() {
		all = append(all, sh.tunnels...)
	}
	return all
}

func (p *Pool) dials() (all []*dial) {
	for _, sh := range p.shares() {
		all = append(all, sh.dials...)
	}
	return all
}
