package h2c

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
	"github.com/tulle-mesh/tulle/mesh/relay"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// The shape of a waypoint: an application's requests come by a tunnel, and go by another to a server's application, all over mutual TLS.
func TestRequestsThroughTunnels(t *testing.T) {
	each(t, func(t *testing.T, down, up string) {
		l := onloop.New(t)
		upstream := newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Trailer", "Sum")
			_, _ = w.Write(body)
			w.Header().Set("Sum", fmt.Sprint(len(body)))
		})
		in, out := onloop.NewTunnels(t, l), onloop.NewTunnels(t, l)
		var spare []*pipe.Pipe // as many as there may be, as opening one takes a while
		for range 8 {
			out.Stream(func(s *hbone.Stream) { spare = append(spare, pipe.OverStream(l, s)) }, func(s *hbone.Stream) {
				pipe.Join(pipe.OverStream(l, s), pipe.OverSocket(l, onloop.Dial(t, upstream), nil), func(relay.Result) {})
			})
		}
		handle := held(t, handlerOver(up, func() (p *pipe.Pipe) {
			p, spare = spare[0], spare[1:]
			return p
		}))
		transport := &http.Transport{Protocols: protocols(down), DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			conn, fd := onloop.Socket(t)
			in.Stream(func(s *hbone.Stream) {
				pipe.Join(pipe.OverSocket(l, fd, nil), pipe.OverStream(l, s), func(relay.Result) {})
			}, func(s *hbone.Stream) {
				if p := pipe.OverStream(l, s); down == "h1" {
					h1.Serve(p, h1.ServerConfig{Scheme: "http", Handle: handle})
				} else {
					Serve(p, ServerConfig{Handle: handle})
				}
			})
			return conn, nil
		}}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: onloop.Patience}
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				for _, size := range []int{0, 1, 20_000, 3 << 20} {
					content := noise(size, uint64(i))
					res, err := client.Post("http://shop.example/", "", io.MultiReader(bytes.NewReader(content)))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if err != nil || !bytes.Equal(got, content) || res.Trailer.Get("Sum") != fmt.Sprint(size) {
						t.Errorf("of %d bytes %d came back, %v, trailers %v", size, len(got), err, res.Trailer)
					}
				}
			})
		}
		all.Wait()
	})
}

// handlerOver passes requests on by connections that dial makes.
func handlerOver(version string, dial func() *pipe.Pipe) exchange.Handler {
	var free []*h1.Client
	var client *Client
	return func(req *exchange.Request, from exchange.Client) exchange.Server {
		if version == "h2" {
			if client == nil {
				client = NewClient(dial(), ClientConfig{Room: func(*Client) {}, Gone: func(*Client) {}})
			}
			return client.Handle(req, from)
		}
		if len(free) == 0 {
			free = append(free, h1.NewClient(dial(), h1.ClientConfig{
				Free: func(c *h1.Client) { free = append(free, c) },
				Gone: func(*h1.Client) {},
			}))
		}
		c := free[len(free)-1]
		free = free[:len(free)-1]
		return c.Handle(req, from)
	}
}
