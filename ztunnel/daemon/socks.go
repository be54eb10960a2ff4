package daemon

import (
	"net"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
	"github.com/tulle-mesh/tulle/ztunnel/socks"
)

// serveSOCKS has connections that are asked for decided like captured ones.
func (p *pod) serveSOCKS() (*socks.Server, error) {
	out, cfg := p.outbound(), listener(p.cfg.Sockets)
	cfg.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), capture.SOCKSPort)
	cfg.KeepAlive, cfg.Transparent = net.KeepAliveConfig{Idle: -1}, false
	return socks.Open(socks.Config{
		Netns: p.info.Netns, Listener: cfg, Log: p.log.With("scope", "socks"), Resolve: p.names.Resolve,
		Handle: func(conn *net.TCPConn, to netip.AddrPort) {
			client := capture.Client{AddrPort: socket.Unmap(conn.RemoteAddr())}
			out.Handle(p.ctx, capture.Conn{TCPConn: conn, Client: client, Original: capture.OriginalDst{AddrPort: to}})
		},
	})
}
