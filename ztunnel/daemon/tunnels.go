package daemon

import (
	"context"
	"crypto/tls"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/h2"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

// How a pod reaches others, and is reached: its tunnels and what they are made with, and its dials.

// makeTunnels makes what holds the pod's tunnels, on each worker.
func (p *pod) makeTunnels() {
	in := p.inbound()
	for i, w := range p.workers {
		limits := h2.Config{
			StreamWindow: uint32(p.cfg.Tunnels.StreamWindow), ConnectionWindow: uint32(p.cfg.Tunnels.ConnectionWindow),
			MaxFrameSize: uint32(p.cfg.Tunnels.FrameSize), Reserve: p.reserves[i],
		}
		p.pools = append(p.pools, hbone.NewPool(hbone.PoolConfig{
			Loop: w.Loop,
			Dial: func(addr netip.AddrPort, done func(int, error)) (func(), error) {
				dialling, err := p.dial(w, addr, done)
				if err != nil {
					return nil, err
				}
				return dialling.Cancel, nil
			},
			TLS: p.clientTLS, Check: p.tls.Revocations.Check,
			Quota: p.quota, Limits: limits, MaxStreams: p.cfg.Tunnels.MaxStreams, IdleTimeout: p.cfg.Tunnels.IdleTimeout,
		}))
		p.servers = append(p.servers, hbone.NewServer(hbone.ServerConfig{
			Loop: w.Loop,
			TLS:  p.serverTLS, Check: p.tls.Revocations.Check,
			Quota: p.quota, Limits: limits,
			Handle: func(incoming *hbone.Incoming) { in.HandleTunnel(p.ctx, w, incoming) },
			Failed: in.Failed,
		}))
	}
}

func (p *pod) clientTLS(ctx context.Context, source identity.Workload, expected []identity.Workload) (*tls.Config, error) {
	credential, err := p.certs.Get(ctx, source)
	if err != nil {
		return nil, err
	}
	return p.tls.ClientConfig(credential, expected), nil
}

func (p *pod) serverTLS(ctx context.Context) (*tls.Config, error) {
	credential, err := p.certs.Get(ctx, p.identity())
	if err != nil {
		return nil, err
	}
	return p.tls.ServerConfig(credential), nil
}

func (p *pod) dial(w *worker.Worker, to netip.AddrPort, done func(int, error)) (*worker.Dialling, error) {
	return w.Dial(p.info.Netns, to, p.dialConfig(), done)
}

func (p *pod) dialConfig() socket.DialConfig {
	s := p.cfg.Sockets
	return socket.DialConfig{Mark: s.Mark, KeepAlive: s.KeepAlive, UserTimeout: s.UserTimeout}
}

// dialApp appears from the client's address if that is wished. In our own pod answers to it would not come back to us.
func (p *pod) dialApp(w *worker.Worker, to, source netip.AddrPort, done func(int, error)) (*worker.Dialling, error) {
	cfg := p.dialConfig()
	if !p.own && p.cfg.Sockets.Source != config.SourceNever {
		cfg.Source, cfg.SourcePort = source.Addr(), source.Port()
	}
	return w.Dial(p.info.Netns, to, cfg, done)
}

func (p *pod) closeTunnels(ctx context.Context) {
	p.cancel()
	servers := p.onWorkers(func(i int, done func()) { p.servers[i].Close(); p.servers[i].OnGone(done) })
	pools := p.onWorkers(func(i int, done func()) { p.pools[i].Close(); p.pools[i].OnGone(done) })
	servers(ctx)
	pools(ctx)
}

// onWorkers calls f on every worker, and returns what waits until all have called done.
func (p *pod) onWorkers(f func(i int, done func())) (wait func(context.Context)) {
	all := make(chan struct{}, len(p.workers))
	done := func() { all <- struct{}{} }
	for i, w := range p.workers {
		if w.Post(func() { f(i, done) }) != nil {
			done()
		}
	}
	return func(ctx context.Context) {
		for range p.workers {
			select {
			case <-all:
			case <-ctx.Done():
				return
			}
		}
	}
}
