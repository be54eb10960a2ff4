package h2c

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/h1"
	"github.com/tulle-mesh/tulle/waypoint/pipe"
)

// benchKind makes a process of this test a proxy: "ours" or "ReverseProxy", the version of HTTP, the server's address. It tells its address, and
// for each line that it is given what it has used of the processor, in µs.
const benchKind = "TULLE_BENCH_PROXY"

const rounds = 3

// BenchmarkProxy has a proxy in a process of its own pass on requests with answers of 1 KiB, by this package and h1, and by net/http's ReverseProxy
// for comparison, in turns. It reports the processor time of the proxy's process for each request, and the ratio of the two.
func BenchmarkProxy(b *testing.B) {
	for _, version := range []string{"h1", "h2"} {
		b.Run(version, func(b *testing.B) {
			answer := bytes.Repeat([]byte("x"), 1<<10)
			upstream := newServer(b, version, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) })
			if version == "h1" {
				upstream = plainServer(b, answer)
			}
			kinds := []string{"ours", "ReverseProxy"}
			proxies := make([]*benchProxy, len(kinds))
			for i, kind := range kinds {
				proxies[i] = startBench(b, kind, version, upstream)
			}
			results := make([][]float64, len(kinds))
			requests := max(b.N, 20_000)
			for range rounds {
				for i, p := range proxies {
					p.load(b, version, requests/10)
					before := p.used(b)
					p.load(b, version, requests)
					results[i] = append(results[i], float64(p.used(b)-before)/float64(requests))
				}
			}
			for i := range results {
				slices.Sort(results[i])
				b.ReportMetric(results[i][rounds/2], kinds[i]+"-µs/request")
			}
			b.ReportMetric(results[0][rounds/2]/results[1][rounds/2], "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// benchProxy is a proxy's process.
type benchProxy struct {
	addr string
	in   io.Writer
	out  *bufio.Reader
}

func startBench(b *testing.B, kind, version, upstream string) *benchProxy {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchKind+"="+kind+" "+version+" "+upstream)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	p := &benchProxy{in: in, out: bufio.NewReader(out)}
	p.addr = p.line(b)
	return p
}

func (p *benchProxy) line(b *testing.B) string {
	b.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// used is what the process has used of the processor, in µs.
func (p *benchProxy) used(b *testing.B) int {
	b.Helper()
	_, _ = io.WriteString(p.in, "\n")
	n, err := strconv.Atoi(p.line(b))
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// load makes requests: by HTTP/1 on 32 connections, by HTTP/2 with 64 at once.
func (p *benchProxy) load(b *testing.B, version string, requests int) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(requests))
	var all sync.WaitGroup
	work := func(one func() error) {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := one(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	if version == "h1" {
		for range 32 {
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			work(func() error { return plainRequest(conn) })
		}
	} else {
		client := newHTTPClient(b, version)
		client.Timeout = 0
		for range 64 {
			work(func() error {
				res, err := client.Get("http://" + p.addr + "/api/items?id=7")
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, res.Body)
				return errors.Join(err, res.Body.Close())
			})
		}
	}
	all.Wait()
}

var plainText = []byte("GET /api/items?id=7 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\nX-Request-Id: 0123456789abcdef\r\n\r\n")

// plainRequest makes a request and reads an answer of about 1 KiB, without looking at it much.
func plainRequest(conn net.Conn) error {
	if _, err := conn.Write(plainText); err != nil {
		return err
	}
	var answer [4 << 10]byte
	for n := 0; ; {
		read, err := conn.Read(answer[n:])
		if n += read; err != nil {
			return err
		}
		if i := bytes.Index(answer[:n], []byte("\r\n\r\n")); i >= 0 && n >= i+4+1<<10 {
			return nil
		}
	}
}

// plainServer answers each head with the same.
func plainServer(b *testing.B, body []byte) (addr string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = listener.Close() })
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nDate: Sun, 29 Nov 2026 10:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				var p [4 << 10]byte
				for n := 0; ; {
					read, err := conn.Read(p[n:])
					if err != nil {
						return
					}
					if n += read; bytes.HasSuffix(p[:n], []byte("\r\n\r\n")) {
						n = 0
						_, _ = conn.Write(answer)
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// serveBench is the proxy's process.
func serveBench(kind string) {
	words := strings.Fields(kind)
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		panic(err)
	}
	if words[0] == "ours" {
		go ourProxy(listener, words[1], words[2])
	} else {
		go theirProxy(listener, words[1], words[2])
	}
	fmt.Println(listener.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		fmt.Println((u.Utime.Nano() + u.Stime.Nano()) / int64(time.Microsecond))
	}
}

// ourProxy passes requests on, on one loop.
func ourProxy(listener *net.TCPListener, version, upstream string) {
	l, err := loop.New()
	if err != nil {
		panic(err)
	}
	var free []*h1.Client
	var client *Client
	over := func() *pipe.Pipe {
		conn, err := net.Dial("tcp", upstream)
		if err != nil {
			panic(err)
		}
		fd, err := socket.Take(conn.(*net.TCPConn))
		if err != nil {
			panic(err)
		}
		return pipe.OverSocket(l, fd, nil)
	}
	handle := func(req *exchange.Request, from exchange.Client) exchange.Server {
		if version == "h2" {
			if client == nil {
				client = NewClient(over(), ClientConfig{Room: func(*Client) {}, Gone: func(*Client) { client = nil }})
			}
			return client.Handle(req, from)
		}
		if len(free) == 0 {
			free = append(free, h1.NewClient(over(), h1.ClientConfig{
				Free: func(c *h1.Client) { free = append(free, c) },
				Gone: func(c *h1.Client) { free = slices.DeleteFunc(free, func(other *h1.Client) bool { return other == c }) },
			}))
		}
		c := free[len(free)-1]
		free = free[:len(free)-1]
		return c.Handle(req, from)
	}
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		fd, err := socket.Take(conn)
		if err != nil {
			panic(err)
		}
		_ = l.Post(func() {
			if version == "h2" {
				Serve(pipe.OverSocket(l, fd, nil), ServerConfig{Handle: handle})
			} else {
				h1.Serve(pipe.OverSocket(l, fd, nil), h1.ServerConfig{Scheme: "http", Handle: handle})
			}
		})
	}
}

// theirProxy does the same by net/http.
func theirProxy(listener net.Listener, version, upstream string) {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: upstream})
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true, Protocols: protocols(version)}
	proxy.BufferPool = new(bufferPool)
	_ = (&http.Server{Handler: proxy, Protocols: protocols(version)}).Serve(listener)
}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }
