package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

const (
	maxQuery      = 4096 // bytes
	maxForwarding = 256  // datagrams of one pod that wait for other servers
	maxConns      = 64   // TCP connections of one pod
	tcpIdle       = 5 * time.Second
	tcpWrite      = 5 * time.Second
	// quietTime without a datagram tells a draining socket that it has read everything which the kernel held ready.
	quietTime = 10 * time.Millisecond
	pauseTime = 50 * time.Millisecond // after an error that may pass
)

// sockets are a pod's ports.
type sockets struct {
	udp []*net.UDPConn
	tcp []*net.TCPListener
	// shared tells that another process may have them too: then what arrives late is read there.
	shared atomic.Bool
}

// Share adds duplicates of the pod's ports to those that another process may take over.
func (p *Pod) Share(with socket.Given) error {
	p.sockets.shared.Store(true)
	for _, conn := range p.sockets.udp {
		if err := share(with, conn, true); err != nil {
			return err
		}
	}
	for _, l := range p.sockets.tcp {
		if err := share(with, l, false); err != nil {
			return err
		}
	}
	return nil
}

func share(with socket.Given, of syscall.Conn, udp bool) error {
	raw, err := of.SyscallConn()
	if err != nil {
		return fmt.Errorf("share a port: %w", err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = with.Share(int(fd), udp) }); err != nil {
		return fmt.Errorf("share a port: %w", err)
	}
	return failed
}

func (s *sockets) close() {
	for _, conn := range s.udp {
		conn.Close()
	}
	for _, l := range s.tcp {
		l.Close()
	}
}

// Listen opens UDP and TCP ports in the pod and serves them. It is called once at most. Where IPv6 doesn't work on the
// pod's loopback, IPv6 addresses are left out, as long as there is another. Ports that were given are used and taken out.
func (p *Pod) Listen(addrs []netip.AddrPort, given socket.Given) error {
	var first error
	ipv6 := p.cfg.Netns.LoopbackIPv6()
	for _, addr := range addrs {
		if addr.Addr().Is6() && !ipv6 {
			continue
		}
		err := p.sockets.open(p.cfg.Netns, socket.ListenConfig{
			Addr: addr, Mark: p.node.cfg.Mark, Transparent: true, ReusePort: p.node.cfg.ReusePort,
			KeepAlive: net.KeepAliveConfig{Idle: -1}, Given: given,
		})
		switch {
		case err != nil && addr.Addr().Is6():
			p.log.Warn("names can't be asked for over IPv6 loopback", "err", err)
			first = errors.Join(first, err)
		case err != nil:
			p.sockets.close()
			return fmt.Errorf("DNS proxy: %w", err)
		}
	}
	if len(p.sockets.udp) == 0 {
		return fmt.Errorf("DNS proxy: no address to listen on: %w", errors.Join(first, errors.New("IPv6 is off on the pod's loopback")))
	}
	p.serve()
	return nil
}

// open adds one address's ports, both or none.
func (s *sockets) open(netns *socket.Netns, cfg socket.ListenConfig) error {
	udp, err := netns.ListenUDP(cfg)
	if err != nil {
		return err
	}
	tcp, err := netns.Listen(cfg)
	if err != nil {
		udp.Close()
		return err
	}
	s.udp, s.tcp = append(s.udp, udp), append(s.tcp, tcp)
	return nil
}

func (p *Pod) serve() {
	forwarding, conns := make(chan struct{}, maxForwarding), make(chan struct{}, maxConns)
	for _, conn := range p.sockets.udp {
		p.serving.Go(func() { p.serveUDP(conn, forwarding) })
	}
	for _, l := range p.sockets.tcp {
		p.serving.Go(func() { p.serveTCP(l, conns) })
	}
}

// Drain takes no more questions than have arrived, and waits for those on their way until ctx ends. Close must follow.
func (p *Pod) Drain(ctx context.Context) {
	for _, l := range p.sockets.tcp {
		l.Close()
	}
	for _, conn := range p.sockets.udp {
		if !p.sockets.shared.Load() {
			_ = socket.Retire(conn) // without it, what arrives in the last moment is lost
		}
		conn.SetReadDeadline(time.Now())
	}
	done := make(chan struct{})
	go func() { defer close(done); p.serving.Wait() }()
	select {
	case <-done:
	case <-ctx.Done():
		p.Close()
		<-done
	}
}

// serveUDP reads datagrams until the socket is closed or drained.
func (p *Pod) serveUDP(conn *net.UDPConn, forwarding chan struct{}) {
	buffer := make([]byte, maxQuery)
	draining := false
	for {
		if draining {
			conn.SetReadDeadline(time.Now().Add(quietTime))
		}
		n, from, to, err := socket.ReadFrom(conn, buffer)
		switch {
		case err == nil:
			p.datagram(p.voice(conn, to), from, buffer[:n], forwarding)
		case errors.Is(err, os.ErrDeadlineExceeded) && !draining: // only Drain sets one
			draining = true
		case errors.Is(err, net.ErrClosed) || draining:
			return
		default:
			p.log.Error("read a DNS question", "err", err)
			p.pause()
		}
	}
}

func (p *Pod) pause() {
	select {
	case <-time.After(pauseTime):
	case <-p.ctx.Done():
	}
}

// datagram answers at once, or in a goroutine if others have to be asked.
func (p *Pod) datagram(answer voice, from netip.AddrPort, data []byte, forwarding chan struct{}) {
	send := func(reply []byte) {
		if reply != nil {
			answer(reply, from) // the client asks again if it doesn't arrive
		}
	}
	q, refusal := parse(data, true)
	if q == nil {
		send(refusal)
		return
	}
	e := p.begin(q)
	if r := e.atOnce(); r != nil {
		send(e.end(r))
		return
	}
	select {
	case forwarding <- struct{}{}:
		p.serving.Go(func() {
			defer func() { <-forwarding }()
			send(e.end(e.later(p.ctx)))
		})
	default:
		e.err = errors.New("too many questions of the pod wait for other servers")
		send(e.end(q.reply(dns.RcodeServerFailure)))
	}
}

// serveTCP accepts connections until the listener is closed. Those above the limit wait in the backlog.
func (p *Pod) serveTCP(l *net.TCPListener, conns chan struct{}) {
	for {
		select {
		case conns <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		conn, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			<-conns
			p.log.Error("accept a DNS connection", "err", err)
			p.pause()
		default:
			p.serving.Go(func() {
				defer func() { <-conns }()
				p.connection(conn)
			})
		}
	}
}

// connection answers one question after the other until the client has no more for a while.
func (p *Pod) connection(conn *net.TCPConn) {
	defer conn.Close()
	defer context.AfterFunc(p.ctx, func() { conn.Close() })()
	for {
		conn.SetReadDeadline(time.Now().Add(tcpIdle))
		data, err := readStream(conn, maxQuery)
		if err != nil {
			return
		}
		q, reply := parse(data, false)
		if q != nil {
			e := p.begin(q)
			r := e.atOnce()
			if r == nil {
				r = e.later(p.ctx)
			}
			reply = e.end(r)
		}
		if reply == nil {
			return
		}
		conn.SetWriteDeadline(time.Now().Add(tcpWrite))
		if err := writeStream(conn, reply); err != nil {
			return
		}
	}
}

// episode is one question from its arrival to its reply.
type episode struct {
	pod   *Pod
	query *query
	start time.Time
	self  *state.Workload // nil until it is known
	mesh  bool            // the mesh knew the answer
	err   error           // why the reply is a failure of ours
}

func (p *Pod) begin(q *query) *episode { return &episode{pod: p, query: q, start: time.Now()} }

// atOnce returns the reply if nothing has to be waited for, else nil.
func (e *episode) atOnce() *dns.Msg {
	t, self := e.pod.known()
	if self == nil {
		return nil
	}
	e.self = self
	return e.fromMesh(t)
}

func (e *episode) fromMesh(t *state.Table) *dns.Msg {
	name, is4, ok := e.query.asks()
	if !ok {
		return nil
	}
	a, found := e.pod.view(t, e.self).lookup(name, is4)
	if !found {
		return nil
	}
	e.mesh = true
	return e.query.fromMesh(a)
}

// later waits for the pod to be known, and for other servers.
func (e *episode) later(ctx context.Context) *dns.Msg {
	if e.self == nil {
		var t *state.Table
		if t, e.self, e.err = e.pod.wait(ctx); e.err != nil {
			return e.query.reply(dns.RcodeServerFailure)
		}
		if r := e.fromMesh(t); r != nil {
			return r
		}
	}
	r, err := e.pod.ask(ctx, e.query.msg, e.labels())
	if err != nil {
		e.err = err
		return e.query.reply(dns.RcodeServerFailure)
	}
	return e.query.fromUpstream(r)
}

// end counts the question, writes the log line and returns the reply's bytes.
func (e *episode) end(r *dns.Msg) []byte {
	labels := e.labels()
	e.pod.node.cfg.Metrics.Requested(labels)
	if e.pod.log.Enabled(context.Background(), slog.LevelDebug) {
		attrs := []slog.Attr{
			slog.String("name", e.query.question().Name), slog.String("type", labels.Type), slog.String("protocol", labels.Protocol),
			slog.String("code", dns.RcodeToString[r.Rcode]), slog.Int("answers", len(r.Answer)), slog.Bool("mesh", e.mesh),
			slog.Duration("duration", time.Since(e.start)),
		}
		if e.err != nil {
			attrs = append(attrs, slog.Any("err", e.err))
		}
		e.pod.log.LogAttrs(context.Background(), slog.LevelDebug, "dns request complete", attrs...)
	}
	return e.query.pack(r)
}

func (e *episode) labels() telemetry.DNSRequest {
	// Types without a name are one label: clients could make up 65,536.
	labels := telemetry.DNSRequest{Type: dns.TypeToString[e.query.question().Qtype], Protocol: "tcp"}
	if e.query.udp {
		labels.Protocol = "udp"
	}
	if e.self != nil {
		labels.Service, labels.Revision = e.self.CanonicalName, e.self.CanonicalRevision
	}
	return labels
}
