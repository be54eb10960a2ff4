package dns

import (
	"net"
	"net/netip"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// voice sends an answer.
type voice func(reply []byte, to netip.AddrPort)

// maxVoices bounds the servers in whose name one pod is answered at once. Pods have two or three.
const maxVoices = 16

// voices are sockets with the addresses of the servers that the pod believes to ask. Redirection that rewrites addresses needs
// none, the kernel turns them back in our answers.
type voices struct {
	mu     sync.Mutex
	closed bool
	by     map[netip.AddrPort]*net.UDPConn
}

// voice returns how to answer what came by one of our sockets for an address.
func (p *Pod) voice(conn *net.UDPConn, asked netip.AddrPort) voice {
	own := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	if !asked.IsValid() || asked == netip.AddrPortFrom(own.Addr().Unmap(), own.Port()) {
		return func(reply []byte, to netip.AddrPort) { _, _ = conn.WriteToUDPAddrPort(reply, to) }
	}
	return func(reply []byte, to netip.AddrPort) {
		conn, err := p.voices.of(p, asked)
		if err != nil {
			p.log.Error("answer in the name of a DNS server", "server", asked, "err", err)
			return
		}
		_, _ = conn.WriteToUDPAddrPort(reply, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	}
}

// of returns the socket with an address. One that makes room for it may be in use, and an answer lost.
func (v *voices) of(p *Pod, addr netip.AddrPort) (*net.UDPConn, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if conn := v.by[addr]; conn != nil {
		return conn, nil
	}
	if v.closed {
		return nil, net.ErrClosed
	}
	conn, err := p.cfg.Netns.ListenUDP(socket.ListenConfig{Addr: addr, Mark: p.node.cfg.Mark, Transparent: true, ReusePort: true})
	if err != nil {
		return nil, err
	}
	for other, old := range v.by {
		if len(v.by) < maxVoices {
			break
		}
		old.Close()
		delete(v.by, other)
	}
	if v.by == nil {
		v.by = map[netip.AddrPort]*net.UDPConn{}
	}
	v.by[addr] = conn
	return conn, nil
}

func (v *voices) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	for _, conn := range v.by {
		conn.Close()
	}
}
