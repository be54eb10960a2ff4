package daemon

import (
	"math/rand/v2"
	"net"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
	"github.com/tulle-mesh/tulle/ztunnel/socks"
)

// serveSOCKS has connections that are asked for decided like captured ones.
func (p *pod) serveSOCKS() (*socks.Server, error) {
	out, cfg := p.outbound(), listener(p.cfg.Sockets, nil)
	cfg.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), capture.SOCKSPort)
	cfg.KeepAlive, cfg.Transparent = net.KeepAliveConfig{Idle: -1}, false
	return socks.Open(socks.Config{
		Netns: p.info.Netns, Listener: cfg, Log: p.log.With("scope", "socks"), Resolve: p.names.Resolve,
		Handle: func(conn *net.TCPConn, to netip.AddrPort) {
			client := capture.Client{AddrPort: socket.Unmap(conn.RemoteAddr())}
			fd, err := socket.Take(conn)
			if err != nil {
				p.log.Warn("connection lost", "client", client.String(), "err", err)
				return
			}
			w := p.workers[rand.N(len(p.workers))]
			_ = w.Post(func() { // fails only when ztunnel has ended
				out.Handle(p.ctx, capture.Conn{Worker: w, FD: fd, Client: client, Original: capture.OriginalDst{AddrPort: to}})
			})
		},
	})
}
