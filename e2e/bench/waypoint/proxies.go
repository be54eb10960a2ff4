package main

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// The ports of what isn't a waypoint.
const (
	reversePort = 8080
	codecsPort  = 8082
)

// reverseProxy is the reference: net/http passes requests on, and does nothing else. It is tuned as one would.
func reverseProxy(server string) error {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server})
	proxy.Transport = &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000, DisableCompression: true}
	proxy.BufferPool = &buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}}
	return (&http.Server{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), reversePort).String(), Handler: proxy}).ListenAndServe()
}

type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte  { return b.Pool.Get().(*[32 << 10]byte)[:] }
func (b *buffers) Put(p []byte) { b.Pool.Put((*[32 << 10]byte)(p)) }

// codecs is the waypoint's HTTP/1.1 from socket to socket, with nothing between.
func codecs(server string) error {
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return err
	}
	workers, err := worker.Start(1)
	if err != nil {
		return err
	}
	c := &passing{worker: workers[0], to: to}
	addr := netip.AddrPortFrom(netip.IPv4Unspecified(), codecsPort)
	if doErr := c.worker.Do(func() {
		err = accept(c.worker.Loop, addr, func(fd int, _, _ netip.AddrPort) {
			h1.Serve(pipe.OverSocket(c.worker.Loop, fd, nil), h1.ServerConfig{Scheme: "http", Handle: c.handle})
		})
	}); doErr != nil || err != nil {
		return err
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
