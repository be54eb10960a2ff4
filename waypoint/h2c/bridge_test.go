package h2c

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

// Both ends are net/http's; between them are this package and h1.

func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = src.Read(p)
	return p
}

func TestRequestsAndAnswersPass(t *testing.T) {
	each(t, func(t *testing.T, down, up string) {
		p := newProxy(t, down, up, newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Seen", fmt.Sprintf("%s %s %s %d", r.Method, r.Host, r.RequestURI, r.ContentLength))
			w.Header().Add("Many", "1")
			w.Header().Add("Many", "2")
			w.Header().Set("Trailer", "Checked")
			if r.ContentLength >= 0 && up == "h1" { // no trailers then, but in HTTP/2
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			_, _ = w.Write(body)
			w.Header().Set("Checked", "yes "+r.Trailer.Get("Sum"))
		}))
		client := newHTTPClient(t, down)
		for _, test := range []struct {
			name, method, path string
			size               int
			streamed           bool
		}{
			{"without a body", "GET", "/a?b=c%20d", 0, false},
			{"length", "POST", "/", 10, false},
			{"streamed", "PUT", "/x", 100, true},
			{"empty POST", "POST", "/", 0, false},
			{"large", "POST", "/", 5 << 20, false},
			{"large and streamed", "POST", "/", 5 << 20, true},
			{"another method", "PURGE", "/*", 3, false},
		} {
			t.Run(test.name, func(t *testing.T) {
				content := noise(test.size, 1)
				var body io.Reader = bytes.NewReader(content)
				length := test.size
				if test.streamed {
					body, length = io.MultiReader(body), -1
				}
				req, err := http.NewRequest(test.method, p.url(test.path), body)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = "shop.example"
				if test.streamed {
					req.Trailer = http.Header{"Sum": {"42"}}
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes came back, %v", len(got), err)
				}
				if seen, want := res.Header.Get("Seen"), fmt.Sprintf("%s shop.example %s %d", test.method, test.path, length); seen != want {
					t.Errorf("the server saw %q, want %q", seen, want)
				}
				if many := fmt.Sprint(res.Header["Many"]); many != "[1 2]" {
					t.Errorf("fields of one name: %s", many)
				}
				if test.streamed && res.Trailer.Get("Checked") != "yes 42" {
					t.Errorf("trailers %v", res.Trailer)
				}
			})
		}
		p.on(func() {
			if p.dialled != 1 || p.opened != 1 {
				t.Errorf("%d connections to the server, %d from the client, want 1 each", p.dialled, p.opened)
			}
		})
	})
}

func TestAnswersWithoutABody(t *testing.T) {
	each(t, func(t *testing.T, down, up string) {
		p := newProxy(t, down, up, newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(204)
			case "/304":
				w.Header().Set("Etag", `"x"`)
				w.WriteHeader(304)
			case "/empty":
			default:
				w.Header().Set("Content-Length", "12345")
			}
		}))
		client := newHTTPClient(t, down)
		for _, test := range []struct{ method, path, want string }{
			{"HEAD", "/", "200 12345"}, {"GET", "/204", "204 0"}, {"GET", "/304", "304 0"}, {"HEAD", "/304", "304 0"}, {"GET", "/empty", "200 0"},
		} {
			req, _ := http.NewRequest(test.method, p.url(test.path), nil)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			length := max(res.ContentLength, 0) // net/http isn't sure of 304
			if got := fmt.Sprint(res.StatusCode, " ", length); got != test.want || err != nil || len(body) > 0 {
				t.Errorf("%s %s: %s, %q, %v, want %s", test.method, test.path, got, body, err, test.want)
			}
		}
	})
}

func TestInterimAnswersPass(t *testing.T) {
	each(t, func(t *testing.T, down, up string) {
		p := newProxy(t, down, up, newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hints" {
				w.Header().Set("Link", "</style.css>")
				w.WriteHeader(103)
			}
			_, _ = io.Copy(w, r.Body) // has net/http say 100
		}))
		var informed []string
		trace := &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				informed = append(informed, fmt.Sprint(code, header.Get("Link")))
				return nil
			},
		}
		client := newHTTPClient(t, down)
		for _, path := range []string{"/hints", "/expect"} { // net/http's HTTP/2 doesn't do both
			req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "POST", p.url(path), strings.NewReader("content"))
			if err != nil {
				t.Fatal(err)
			}
			if path == "/expect" {
				req.Header.Set("Expect", "100-continue")
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if string(got) != "content" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		}
		if fmt.Sprint(informed) != "[103</style.css> 100]" {
			t.Errorf("informed of %v", informed)
		}
	})
}

// A client that reads slowly slows its server; one that doesn't read a request makes the client wait. Nothing is lost, and little is kept.
func TestSlowReadersSlowTheirWriters(t *testing.T) {
	const size = 40 << 20
	content := noise(size, 4)
	each(t, func(t *testing.T, down, up string) {
		hold := make(chan struct{})
		var sent sync.WaitGroup
		sent.Add(1)
		done := make(chan struct{})
		p := newProxy(t, down, up, newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				<-hold
				got, err := io.ReadAll(r.Body)
				_, _ = fmt.Fprint(w, bytes.Equal(got, content), err)
				return
			}
			_, _ = w.Write(content)
			close(done)
		}))
		still := func() {
			last := -1
			p.eventually("everything to stand still", func() bool {
				waiting := 0
				for _, one := range p.pipes {
					waiting += one.Waiting()
				}
				for _, s := range p.servers {
					for _, stream := range s.streams {
						waiting += stream.queue.Len()
					}
				}
				if p.client != nil {
					for _, stream := range p.client.streams {
						waiting += stream.queue.Len()
					}
				}
				if waiting > 1<<20 {
					t.Errorf("%d bytes wait", waiting)
				}
				same := waiting > 0 && waiting == last
				last = waiting
				return same
			})
		}
		client := newHTTPClient(t, down)
		res, err := client.Get(p.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		still()
		select {
		case <-done:
			t.Error("the server has sent everything to a client that reads nothing")
		default:
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes came, %v", len(got), err)
		}
		go func() {
			still()
			close(hold)
		}()
		if res, err = client.Post(p.url("/"), "", bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if got, err = io.ReadAll(res.Body); string(got) != "true <nil>" || err != nil {
			t.Errorf("the server got something else: %q, %v", got, err)
		}
		_ = res.Body.Close()
	})
}

func TestClientThatGivesUpIsHeardByTheServer(t *testing.T) {
	each(t, func(t *testing.T, down, up string) {
		began, gone := make(chan struct{}), make(chan struct{})
		p := newProxy(t, down, up, newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			close(began)
			<-r.Context().Done()
			close(gone)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-began
			cancel()
		}()
		req, _ := http.NewRequestWithContext(ctx, "GET", p.url("/"), nil)
		if _, err := newHTTPClient(t, down).Do(req); err == nil {
			t.Error("an answer")
		}
		if down == "h1" { // it ends its direction, which may also be the way of one that still reads
			t.Skip("the server of a client that closes properly is told after partedTime")
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Error("the server never hears of it")
		}
	})
}

func TestServerThatBreaksOffIsHeardByTheClient(t *testing.T) {
	each(t, func(t *testing.T, down, up string) {
		p := newProxy(t, down, up, newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/within" {
				_, _ = w.Write(noise(100_000, 5))
				w.(http.Flusher).Flush()
			}
			panic(http.ErrAbortHandler)
		}))
		client := newHTTPClient(t, down)
		res, err := client.Get(p.url("/within"))
		if err == nil {
			_, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		if err == nil {
			t.Error("half an answer looks whole")
		}
		res, err = client.Get(p.url("/before"))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 502 {
			t.Errorf("status %d before any answer", res.StatusCode)
		}
	})
}

// Many exchanges at once on few connections: none is mixed up with another.
func TestManyExchangesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, down, up string) {
		p := newProxy(t, down, up, newServer(t, up, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "%s %s", r.URL.Path, body)
		}))
		client := newHTTPClient(t, down)
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				for j := range 20 {
					content := string(noise(1+(i*j*997)%70_000, uint64(i)))
					res, err := client.Post(p.url(fmt.Sprintf("/%d/%d", i, j)), "", strings.NewReader(content))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if want := fmt.Sprintf("/%d/%d %s", i, j, content); err != nil || string(got) != want {
						t.Errorf("got %d bytes, want %d, %v", len(got), len(want), err)
					}
				}
			})
		}
		all.Wait()
	})
}
