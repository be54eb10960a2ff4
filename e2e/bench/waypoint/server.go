package main

import (
	"context"
	"crypto/tls"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/h2c"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// listen opens the ports of a server.
func (p *party) listen() error {
	p.tunnel = hbone.NewServer(hbone.ServerConfig{
		Loop: p.worker.Loop,
		TLS: func(ctx context.Context) (*tls.Config, error) {
			credential, err := p.certs.Get(ctx, p.id)
			if err != nil {
				return nil, err
			}
			return mtls.Policy{}.ServerConfig(credential), nil
		},
		Handle: func(in *hbone.Incoming) {
			if stream, err := in.Accept(hbone.Baggage{}); err == nil {
				p.serve(pipe.OverStream(p.worker.Loop, stream), in.Request.Authority.Port())
			}
		},
	})
	for _, port := range []uint16{httpPort, grpcPort, tunnelPort} {
		addr := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
		err := accept(p.worker.Loop, addr, func(fd int, local, remote netip.AddrPort) {
			if port == tunnelPort {
				p.tunnel.Serve(fd, local, remote)
				return
			}
			p.serve(pipe.OverSocket(p.worker.Loop, fd, nil), port)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// serve answers what comes by a pipe.
func (p *party) serve(on *pipe.Pipe, port uint16) {
	if port == grpcPort {
		h2c.Serve(on, h2c.ServerConfig{Handle: p.answer})
		return
	}
	h1.Serve(on, h1.ServerConfig{Scheme: "http", Handle: p.answer})
}

// answer implements exchange.Handler: 1 KiB for everybody.
func (p *party) answer(req *exchange.Request, client exchange.Client) exchange.Server {
	contentType, _ := exchange.Get(req.Fields, "content-type")
	a := &answer{client: client, grpc: contentType == grpcType}
	a.task.Run = a.speak
	return a
}

const grpcType = "application/grpc"

var (
	payload = []byte(strings.Repeat("x", 1024))
	message = append([]byte{0, 0, 0, 4, 0}, payload...)
)

// answering is where an answer waits for the request's end.
type answer struct {
	client exchange.Client
	grpc   bool
	gone   bool
	task   loop.Task
}

func (a *answer) Data(p []byte)        { a.client.Consumed(len(p)) }
func (a *answer) End([]exchange.Field) { a.speak() }
func (a *answer) Abort(error)          { a.gone = true }
func (a *answer) Consumed(int)         {}

func (a *answer) speak() {
	switch {
	case a.gone:
	case a.grpc:
		a.client.Respond(&exchange.Response{Version: exchange.HTTP2, Status: 200, Length: exchange.UnknownLength, Fields: []exchange.Field{{Name: "content-type", Value: grpcType}}})
		a.client.Data(message)
		a.client.End([]exchange.Field{{Name: "grpc-status", Value: "0"}})
	default:
		a.client.Respond(&exchange.Response{Version: exchange.HTTP11, Status: 200, Length: int64(len(payload)), Fields: []exchange.Field{{Name: "content-type", Value: "text/plain"}}})
		a.client.Data(payload)
		a.client.End(nil)
	}
}

// acceptor gives what a listening socket brings to serve.
type acceptor struct {
	fd    int
	serve func(fd int, local, remote netip.AddrPort)
}

func accept(l *loop.Loop, addr netip.AddrPort, serve func(fd int, local, remote netip.AddrPort)) error {
	fd, err := (*socket.Netns)(nil).ListenFD(socket.ListenConfig{Addr: addr})
	if err != nil {
		return err
	}
	return l.WatchListener(fd, &acceptor{fd, serve})
}

// Ready implements loop.Handler.
func (a *acceptor) Ready(loop.Events) {
	for {
		fd, remote, err := socket.Accept(a.fd)
		if err != nil {
			return
		}
		if local, err := socket.Local(fd); err == nil {
			a.serve(fd, local, remote)
		}
	}
}
