package daemon

import (
	"context"
	"crypto/tls"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/serve"
	"github.com/tulle-mesh/tulle/waypoint/upstream"
)

// line is what connections need on one worker: the tunnels that come, what is done with what they carry, the tunnels that go on.
type line struct {
	server  *hbone.Server
	handler *serve.Handler
	pool    *hbone.Pool
}

// windows are how much of a stream may wait in this process for who is slower than its sender: about twice what an exchange has under way. ztunnel,
// whose kernel's buffers take part, has larger ones.
var windows = h2.Config{StreamWindow: 2 * exchange.Window, ConnectionWindow: 4 << 20}

func newLine(w *waypoint, on *worker.Worker) *line {
	l := &line{}
	l.pool = hbone.NewPool(hbone.PoolConfig{
		Loop: on.Loop,
		Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
			dialling, err := on.Dial(nil, addr, socket.DialConfig{}, done)
			if err != nil {
				return nil, err
			}
			return dialling.Cancel, nil
		},
		TLS: w.clientTLS, Limits: windows,
	})
	l.handler = serve.New(serve.Config{
		Worker: on, Table: w.store.Load, Self: w.self, Open: w.open, Metrics: w.metrics, Access: w.access, Rules: w.rules.Load, Log: w.log.With("scope", "rbac"), MaxAge: w.cfg.MaxConnectionAge, Proxies: w.cfg.TrustedProxies, XFCC: w.cfg.XFCC,
		Dialer: upstream.Dialer{Worker: on, Pool: l.pool, Identity: w.cfg.Identity},
	})
	l.server = hbone.NewServer(hbone.ServerConfig{
		Loop: on.Loop, TLS: w.serverTLS, Handle: l.handler.Handle, Failed: l.handler.Failed, MaxAge: w.cfg.MaxConnectionAge, Limits: windows,
	})
	return l
}

func (w *waypoint) clientTLS(ctx context.Context, source identity.Workload, expected []identity.Workload) (*tls.Config, error) {
	credential, err := w.certs.Get(ctx, source)
	if err != nil {
		return nil, err
	}
	return w.tls.ClientConfig(credential, expected), nil
}

func (w *waypoint) serverTLS(ctx context.Context) (*tls.Config, error) {
	credential, err := w.certs.Get(ctx, w.cfg.Identity)
	if err != nil {
		return nil, err
	}
	return w.tls.ServerConfig(credential), nil
}

// follow lets tunnels go whose other end is gone, until ctx ends: they would only be found out by their silence, and an address may belong to
// another pod by then.
func (w *waypoint) follow(ctx context.Context) {
	before := w.store.Load()
	for {
		changed := w.store.Changed()
		now := w.store.Load()
		if now.Turnover() != before.Turnover() {
			w.retain(before, now)
		}
		before = now
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (w *waypoint) retain(before, now *state.Table) {
	stays := func(target hbone.Target) bool {
		was, is := before.WorkloadAt(w.cfg.Network, target.Addr.Addr()), now.WorkloadAt(w.cfg.Network, target.Addr.Addr())
		return was == nil || (is != nil && is.UID == was.UID && is.Identity == was.Identity)
	}
	w.onWorkers(func(l *line, done func()) {
		l.pool.Retain(stays)
		done()
	})
}

// cutRevoked ends the tunnels whose peers' certificates have been revoked meanwhile.
func (w *waypoint) cutRevoked() {
	w.onWorkers(func(l *line, done func()) {
		l.server.Cut(w.tls.Revocations.Check)
		l.pool.Cut(w.tls.Revocations.Check)
		done()
	})
}

// drainLines tells clients to open no more streams, and returns when all have ended, or ctx has.
func (w *waypoint) drainLines(ctx context.Context) {
	w.onWorkers(func(l *line, done func()) {
		l.handler.Drain()
		l.server.Shutdown(done)
	})(ctx)
}

// closeLines ends everything that is open.
func (w *waypoint) closeLines() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	servers := w.onWorkers(func(l *line, done func()) { l.server.Close(); l.server.OnGone(done) })
	servers(ctx)
	pools := w.onWorkers(func(l *line, done func()) { l.pool.Close(); l.pool.OnGone(done) })
	pools(ctx)
}

// onWorkers calls f for every line on its worker, and returns what waits until all have called done.
func (w *waypoint) onWorkers(f func(l *line, done func())) (wait func(context.Context)) {
	all := make(chan struct{}, len(w.lines))
	done := func() { all <- struct{}{} }
	for i, l := range w.lines {
		if w.workers[i].Post(func() { f(l, done) }) != nil {
			done()
		}
	}
	return func(ctx context.Context) {
		for range w.lines {
			select {
			case <-all:
			case <-ctx.Done():
				return
			}
		}
	}
}
