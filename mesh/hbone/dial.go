package hbone

import (
	"context"
	"crypto/tls"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/record"
)

// dial is one attempt to open a tunnel. All who wait for it share its outcome.
type dial struct {
	pool    *Pool
	key     key
	share   *share
	waiters []*Attempt
	quota   *loop.Quota // that the connection is taken from; nil for none
	silent  bool        // the peer hasn't answered yet, not even to TCP
	stop    func()      // ends it at once; nil before it has begun
}

// add has an attempt wait for the outcome.
func (d *dial) add(a *Attempt) {
	a.dial = d
	d.waiters = append(d.waiters, a)
}

func (d *dial) start() {
	if err := d.pool.cfg.Quota.Take(1); err != nil {
		_ = d.pool.cfg.Loop.Post(func() { d.end(nil, StageConnect, err) })
		return
	}
	d.quota, d.silent = d.pool.cfg.Quota, true
	h := d.prepare()
	cancel, err := d.pool.cfg.Dial(d.share.target.Addr, func(fd int, err error) {
		if err != nil {
			h.forget(err)
			d.quota.Give(1)
			d.end(nil, StageConnect, err)
			return
		}
		d.shake(h, fd)
	})
	if err != nil {
		h.forget(err)
		d.quota.Give(1)
		_ = d.pool.cfg.Loop.Post(func() { d.end(nil, StageConnect, err) })
		return
	}
	d.stop = func() {
		cancel()
		h.forget(errClosed)
		d.quota.Give(1)
		d.end(nil, StageConnect, errClosed)
	}
}

// prepare begins the TLS handshake as far as it goes without a connection: the certificate and the keys of its hello take about as long as
// connecting does.
func (d *dial) prepare() *handshake {
	p, target := d.pool, d.share.target
	h := &handshake{
		loop: p.cfg.Loop, role: record.Client, parent: p.ctx, check: p.cfg.Check,
		config: func(ctx context.Context) (*tls.Config, error) { return p.cfg.TLS(ctx, target.Source, target.Expected) },
	}
	h.prepare()
	return h
}

// shake makes the TLS handshake.
func (d *dial) shake(h *handshake, fd int) {
	d.silent = false
	p, target := d.pool, d.share.target
	h.closed = func() { d.quota.Give(1) }
	h.done = func(out shaken) {
		if out.err != nil {
			d.end(nil, out.stage, out.err)
			return
		}
		t := newTunnel(tunnelConfig{
			loop: p.cfg.Loop, role: h2.Client, limits: p.cfg.Limits, max: p.cfg.MaxStreams, idle: p.cfg.IdleTimeout, remote: target.Addr,
			spare: func(t *tunnel) bool { return len(d.share.tunnels) > 0 && d.share.tunnels[0] != t },
			ended: func(t *tunnel) {
				d.quota.Give(1)
				p.ended(d.key, d.share, t)
			},
		}, fd, out)
		t.single = d.share.single
		d.end(t, 0, nil)
	}
	d.stop = func() { h.abandon(errClosed) }
	h.start(fd)
}

// end tells all who wait.
func (d *dial) end(t *tunnel, stage Stage, err error) {
	d.stop = nil
	d.share.dials = slices.DeleteFunc(d.share.dials, func(other *dial) bool { return other == d })
	if t != nil {
		d.share.tunnels = append(d.share.tunnels, t)
	} else {
		err = &DialError{Stage: stage, Addr: d.share.target.Addr, Err: err}
	}
	waiters := d.waiters
	d.waiters = nil
	for _, a := range waiters {
		if a.dial == d { // and wasn't given up by one before
			a.dialled(err)
		}
	}
	if t != nil && t.single && len(t.streams) == 0 {
		t.shutdown() // whoever wanted it has given up
	}
	d.pool.tidy(d.key, d.share)
}
