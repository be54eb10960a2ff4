package main

import (
	"errors"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// plain is what isn't a waypoint: its port, and how it serves there with that server behind it.
var plain = map[string]struct {
	port  uint16
	serve func(port uint16, server string) error
}{
	roleReverse: {8080, reverseProxy},
	roleCodecs:  {8082, codecs},
	roleBytes:   {8083, passBytes},
}

// reverseProxy is the reference: net/http passes requests on, and does nothing else. It is tuned as one would.
func reverseProxy(port uint16, server string) error {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server})
	proxy.Transport = &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000, DisableCompression: true}
	proxy.BufferPool = &buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}}
	return (&http.Server{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port).String(), Handler: proxy}).ListenAndServe()
}

type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte  { return b.Pool.Get().(*[32 << 10]byte)[:] }
func (b *buffers) Put(p []byte) { b.Pool.Put((*[32 << 10]byte)(p)) }

// codecs is the waypoint's HTTP/1.1 from socket to socket, with nothing between.
func codecs(port uint16, server string) error {
	return onLoop(port, server, func(w *worker.Worker, to netip.AddrPort) func(fd int) {
		c := &passing{worker: w, to: to}
		return func(fd int) {
			h1.Serve(pipe.OverSocket(w.Loop, fd, nil), h1.ServerConfig{Scheme: "http", Handle: c.handle})
		}
	})
}

// passBytes reads and writes what comes, and looks at none of it: the least that anything costs that isn't in the kernel.
func passBytes(port uint16, server string) error {
	return onLoop(port, server, func(w *worker.Worker, to netip.AddrPort) func(fd int) {
		return func(fd int) {
			client := pipe.OverSocket(w.Loop, fd, nil)
			_, err := w.Dial(nil, to, socket.DialConfig{}, func(fd int, err error) {
				if err != nil {
					client.Reset()
					return
				}
				pipe.Join(client, pipe.OverSocket(w.Loop, fd, nil), func(relay.Result) {})
			})
			if err != nil {
				client.Reset()
			}
		}
	})
}

// onLoop hands connections to what serves them, on a loop of the waypoint's.
func onLoop(port uint16, server string, serve func(w *worker.Worker, to netip.AddrPort) func(fd int)) error {
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return err
	}
	workers, err := worker.Start(1)
	if err != nil {
		return err
	}
	w := workers[0]
	if doErr := w.Do(func() {
		take := serve(w, to)
		err = accept(w.Loop, netip.AddrPortFrom(netip.IPv4Unspecified(), port), func(fd int, _, _ netip.AddrPort) { take(fd) })
	}); doErr != nil || err != nil {
		return errors.Join(doErr, err)
	}
	select {}
}

// passing hands requests to connections that are free.
type passing struct {
	worker *worker.Worker
	to     netip.AddrPort
	free   []*h1.Client
}

func (c *passing) handle(req *exchange.Request, client exchange.Client) exchange.Server {
	if n := len(c.free); n > 0 {
		to := c.free[n-1]
		c.free = c.free[:n-1]
		return to.Handle(req, client)
	}
	w := &waiting{}
	_, err := c.worker.Dial(nil, c.to, socket.DialConfig{}, func(fd int, err error) {
		if err != nil {
			client.Abort(err)
			return
		}
		to := h1.NewClient(pipe.OverSocket(c.worker.Loop, fd, nil), h1.ClientConfig{Free: func(to *h1.Client) { c.free = append(c.free, to) }, Gone: c.gone})
		w.Server = to.Handle(req, client)
		if w.ended {
			w.Server.End(nil)
		}
	})
	if err != nil {
		task := &loop.Task{Run: func() { client.Abort(err) }}
		c.worker.Output(task)
	}
	return w
}

func (c *passing) gone(client *h1.Client) {
	for i, other := range c.free {
		if other == client {
			c.free = append(c.free[:i], c.free[i+1:]...)
			return
		}
	}
}

// waiting is a request without a body whose connection isn't there yet.
type waiting struct {
	exchange.Server
	ended bool
}

func (w *waiting) Abort(err error) {
	if w.Server != nil {
		w.Server.Abort(err)
	}
}

func (w *waiting) End(trailers []exchange.Field) {
	if w.ended = true; w.Server != nil {
		w.Server.End(trailers)
	}
}
