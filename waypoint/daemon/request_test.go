package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

const httpPort = workload.AppProtocol_HTTP11

func TestARequestWithoutRoutesReachesItsService(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("one"))
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	resp, text := fetch(t, c, "http://web/a?b=c", func(r *http.Request) {
		r.Method, r.Host, r.Body = "POST", "somebody.else", io.NopCloser(strings.NewReader("hello"))
	})
	if want := "one POST /a?b=c host=somebody.else hello"; resp.StatusCode != 200 || text != want {
		t.Errorf("%d %q, want 200 %q", resp.StatusCode, text, want)
	}
	m.eventually("the request to be counted", func() error {
		if n := m.metric("istio_requests_total", `reporter="waypoint"`, `source_principal="spiffe://cluster.local/ns/shop/sa/client"`, `source_workload_namespace="shop"`,
			`destination_workload="web"`, `destination_service="web.shop"`, `request_protocol="http"`, `response_code="200"`, `response_flags="-"`); n != 1 {
			return fmt.Errorf("%v requests", n)
		}
		return nil
	})
	if n := m.metric("istio_request_bytes_sum"); n != 5 {
		t.Errorf("%v bytes of requests, want 5", n)
	}
	if n := m.metric("istio_response_bytes_sum"); n != float64(len(text)) {
		t.Errorf("%v bytes of answers, want %d", n, len(text))
	}
	if n := m.metric("istio_request_duration_milliseconds_count", `response_code="200"`); n != 1 {
		t.Errorf("%v durations, want 1", n)
	}
	m.eventually("the access log", func() error {
		for _, word := range []string{`request complete	method="POST" path="/a?b=c" authority="somebody.else"`, `response_code=200`, `src.identity="spiffe://cluster.local/ns/shop/sa/client"`} {
			if !strings.Contains(m.log.String(), word) {
				return errors.New("no " + word)
			}
		}
		return nil
	})
}

// A server is told who its client is, if its waypoint does that, also of a mirrored request; what the client says of itself there counts only
// where nobody else says it.
func TestServersAreToldWhoTheirClientIs(t *testing.T) {
	for _, told := range []bool{true, false} {
		m := newMesh(t, func(c *config.Config) { c.XFCC = told })
		said := make(chan []string, 2)
		tell := func(w http.ResponseWriter, r *http.Request) { said <- r.Header["X-Forwarded-Client-Cert"] }
		m.serve(serverHost, tell)
		m.serve(serverHost+1, tell)
		m.know(m.service("web", httpPort, 8080, serverHost)...)
		m.know(m.service("shadow", httpPort, 8080, serverHost+1)...)
		both := rule("/", "web")
		both.Filters = &l7.Filters{Mirrors: []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}}}}
		m.know(httpRoute("web", "web", both))
		c := m.browser(m.caller("shop", "client"))
		forged := []string{"URI=spiffe://cluster.local/ns/shop/sa/admin", "URI=spiffe://cluster.local/ns/shop/sa/root"}
		fetch(t, c, "http://web/", func(r *http.Request) { r.Header["X-Forwarded-Client-Cert"] = forged })
		want := forged
		if told {
			want = []string{"By=spiffe://cluster.local/ns/shop/sa/wp;URI=spiffe://cluster.local/ns/shop/sa/client"}
		}
		for range 2 {
			select {
			case got := <-said:
				if !slices.Equal(got, want) {
					t.Errorf("told %v: %q, want %q", told, got, want)
				}
			case <-time.After(patience):
				t.Error("a server wasn't asked")
			}
		}
	}
}

// What the two sides of a large body have under way is bounded by the windows; nothing may get lost or stick.
func TestLargeBodiesPassBothWays(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	const size = 8 << 20
	sent := strings.Repeat("0123456789abcdef", size/16)
	_, got := fetch(t, c, "http://web/", func(r *http.Request) { r.Method, r.Body = "PUT", io.NopCloser(strings.NewReader(sent)) })
	if got != sent {
		t.Errorf("%d bytes came back, want %d", len(got), len(sent))
	}
}

func TestRequestsGoAsTheRoutesSay(t *testing.T) {
	m := newMesh(t)
	for i, name := range []string{"v1", "v2"} {
		m.serve(serverHost+byte(i), echo(name))
		m.know(m.service(name, httpPort, 8080, serverHost+byte(i))...)
	}
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	broken := rule("/broken", "v1")
	broken.Backends[0].Invalid = "there is no such service"
	changed := rule("/changed", "v2")
	changed.Filters = &l7.Filters{
		RequestHeaders: &l7.HeaderChange{Set: []*l7.Header{{Name: "x-set", Value: "yes"}}}, ResponseHeaders: &l7.HeaderChange{Add: []*l7.Header{{Name: "x-added", Value: "too"}}},
		Rewrite: &l7.Rewrite{Hostname: "rewritten", Path: &l7.PathChange{Change: &l7.PathChange_Prefix{Prefix: "/new"}}},
	}
	moved := rule("/moved")
	moved.Filters = &l7.Filters{Redirect: &l7.Redirect{Hostname: "elsewhere.example", Status: 301}}
	m.know(httpRoute("web", "web", rule("/one", "v1"), rule("/two", "v2"), broken, changed, moved, rule("/nowhere")))
	c := m.browser(m.caller("shop", "client"))
	for _, test := range []struct {
		path   string
		status int
		text   string
	}{
		{"/one", 200, "v1 GET /one host=web "},
		{"/two/x?y", 200, "v2 GET /two/x?y host=web "},
		{"/changed/x", 200, "v2 GET /new/x host=rewritten "},
		{"/moved/x", 301, ""},
		{"/broken", 500, ""},
		{"/nowhere", 500, ""},
		{"/three", 404, ""},
		{"/one/../two", 200, "v2 GET /two host=web "},
	} {
		resp, text := fetch(t, c, "http://web"+test.path)
		if resp.StatusCode != test.status || text != test.text {
			t.Errorf("%s: %d %q, want %d %q", test.path, resp.StatusCode, text, test.status, test.text)
		}
		if test.path == "/moved/x" && resp.Header.Get("Location") != "http://elsewhere.example/moved/x" {
			t.Errorf("redirected to %s", resp.Header.Get("Location"))
		}
		if test.path == "/changed/x" && resp.Header.Get("X-Added") != "too" {
			t.Errorf("the answer's head wasn't changed: %v", resp.Header)
		}
	}
	m.eventually("what no rule matched to be counted", func() error {
		if n := m.metric("istio_requests_total", `response_code="404"`, `response_flags="NR"`, `destination_workload="unknown"`, `destination_service="web.shop"`); n != 1 {
			return fmt.Errorf("%v requests", n)
		}
		return nil
	})
}

// A redirect, and what a browser asks of CORS, are answered by the rule itself, with the headers that it adds.
func TestServersHearOfTheClientAndOfThoseBeforeIt(t *testing.T) {
	m := newMesh(t)
	told := make(chan http.Header, 1)
	m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) { told <- r.Header })
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	for before, want := range map[string]string{"": "127.0.0.1", "1.2.3.4, 5.6.7.8": "1.2.3.4, 5.6.7.8,127.0.0.1"} {
		fetch(t, c, "http://web/", func(r *http.Request) {
			if before != "" {
				r.Header.Set("X-Forwarded-For", before)
			}
		})
		if got := <-told; got.Get("X-Forwarded-For") != want || got.Get("X-Forwarded-Proto") != "http" || len(got.Get("X-Request-Id")) != 36 {
			t.Errorf("the server is told %v, want %s", got, want)
		}
	}
}

func TestAnswersOfARuleSayNothingTwice(t *testing.T) {
	m := newMesh(t)
	m.know(m.service("web", httpPort, 8080)...)
	moved := rule("/")
	moved.Filters = &l7.Filters{
		Redirect: &l7.Redirect{Status: 302}, ResponseHeaders: &l7.HeaderChange{Add: []*l7.Header{{Name: "x-added", Value: "1"}}},
		Cors: &l7.CORS{AllowOrigins: []string{"https://a.example"}},
	}
	m.know(httpRoute("web", "web", moved))
	c := m.browser(m.caller("shop", "client"))
	for method, want := range map[string]http.Header{
		"GET":     {"Vary": {"Origin"}, "Access-Control-Allow-Origin": {"https://a.example"}, "X-Added": {"1"}, "Location": {"http://web/"}, "Content-Length": {"0"}},
		"OPTIONS": {"Vary": {"Origin"}, "Access-Control-Allow-Origin": {"https://a.example"}, "Access-Control-Max-Age": {"5"}},
	} {
		resp, _ := fetch(t, c, "http://web/", func(r *http.Request) {
			r.Method = method
			r.Header.Set("Origin", "https://a.example")
			r.Header.Set("Access-Control-Request-Method", "PUT")
		})
		if !reflect.DeepEqual(resp.Header, want) {
			t.Errorf("%s is answered with %v, want %v", method, resp.Header, want)
		}
	}
}

// What the codecs answer themselves is counted as well, once, and no server hears of it.
func TestWhatIsNoRequestIsAnsweredAndCounted(t *testing.T) {
	m := newMesh(t)
	asked := atomic.Int32{}
	m.serve(serverHost, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			asked.Add(1)
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.caller("shop", "client")
	for _, test := range []struct {
		name, request string
		status        int
		reason        string
	}{
		{"a transfer coding that isn't known", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "a transfer-encoding other than chunked"},
		{"CONNECT", "CONNECT web:80 HTTP/1.1\r\nHost: web\r\n\r\n", 405, "CONNECT, which only proxies for clients serve"},
		{"another version", "GET / HTTP/1.9\r\nHost: web\r\n\r\n", 505, "a version of HTTP that isn't served here"},
		{"a chunk that is none", "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400, "a chunk without a size"},
	} {
		conn, err := m.through(c, "web")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, test.request)
		all, err := io.ReadAll(conn)
		conn.Close()
		if want := fmt.Sprintf("HTTP/1.1 %d %s\r\n", test.status, http.StatusText(test.status)); err != nil || !strings.HasPrefix(string(all), want) || !strings.Contains(string(all), test.reason) {
			t.Errorf("%s: %q, %v", test.name, all, err)
		}
		m.eventually(test.name+" to be counted", func() error {
			code := fmt.Sprintf(`response_code="%d"`, test.status)
			if n := m.metric("istio_requests_total", `reporter="waypoint"`, `source_principal="spiffe://cluster.local/ns/shop/sa/client"`, `destination_service="web.shop"`, `response_flags="DPE"`, code); n != 1 {
				return fmt.Errorf("%v requests", n)
			}
			if word := fmt.Sprintf("response_code_details=%q", test.reason); !strings.Contains(m.log.String(), word) {
				return errors.New("no " + word + " in the log")
			}
			return nil
		})
	}
	if n := m.metric("istio_requests_total"); n != 4 || asked.Load() != 0 {
		t.Errorf("%v requests are counted, want 4; servers were asked %d times", n, asked.Load())
	}
}

// A client tells of itself what it likes; what is for the clients of a namespace goes by the one that its certificate proves.
func TestOnlyTheCertificateSaysWhoseRoutesAreAClients(t *testing.T) {
	m := newMesh(t)
	for i, name := range []string{"web", "theirs"} {
		m.serve(serverHost+byte(i), echo(name))
		m.know(m.service(name, httpPort, 8080, serverHost+byte(i))...)
	}
	consumers := httpRoute("consumers", "web", rule("/", "theirs"))
	consumers.Targets[0].ConsumerNamespace = "team"
	m.know(httpRoute("producers", "web", rule("/", "web")), consumers)
	for _, test := range []struct{ proven, told, want string }{
		{"team", "", "theirs"}, {"team", "shop", "theirs"}, {"shop", "", "web"}, {"shop", "team", "web"},
	} {
		client := m.caller(test.proven, "client")
		client.Baggage = hbone.Baggage{Namespace: test.told, WorkloadType: "deployment", WorkloadName: "client"}
		_, text := fetch(t, m.browser(client), "http://web/", func(r *http.Request) {
			if test.told != "" {
				r.Header.Set("Baggage", "k8s.namespace.name="+test.told)
				r.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://cluster.local/ns/"+test.told+"/sa/client")
			}
		})
		if got, _, _ := strings.Cut(text, " "); got != test.want {
			t.Errorf("a client of %s that says %q is led to %s, want %s", test.proven, test.told, got, test.want)
		}
	}
	if n := m.metric("istio_requests_total", `source_workload_namespace="team"`, `destination_workload="theirs"`); n != 2 {
		t.Errorf("%v requests are counted of namespace team, want 2", n)
	}
}

func TestFailuresAreAnsweredInIstiosWords(t *testing.T) {
	m := newMesh(t)
	m.know(m.service("empty", httpPort, 8080)...)
	m.know(m.service("dead", httpPort, 8080, serverHost)...)
	release := make(chan struct{})
	m.serve(serverHost+1, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/breaks":
			panic(http.ErrAbortHandler)
		default:
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	defer close(release)
	m.know(m.service("slow", httpPort, 8080, serverHost+1)...)
	whole, each := rule("/whole", "slow"), rule("/each", "slow")
	whole.RequestTimeoutMs, each.TryTimeoutMs = 50, 50
	m.know(httpRoute("slow", "slow", whole, each, rule("/", "slow")))
	c := m.browser(m.caller("shop", "client"))
	for _, test := range []struct {
		url, flags, text string
		status           int
	}{
		{"http://empty/", "UH", textNoEndpoint, 503},
		{"http://dead/", "UF", textConnect, 503},
		{"http://slow/breaks", "UC", textBroken, 503},
		{"http://slow/whole", "UT", textTimeout, 504},
		{"http://slow/each", "UT", textTimeout, 504},
	} {
		resp, text := fetch(t, c, test.url)
		if resp.StatusCode != test.status || text != test.text {
			t.Errorf("%s: %d %q, want %d %q", test.url, resp.StatusCode, text, test.status, test.text)
		}
		m.eventually(test.url+" to be counted", func() error {
			if m.metric("istio_requests_total", `response_flags="`+test.flags+`"`, fmt.Sprintf(`response_code="%d"`, test.status)) == 0 {
				return errors.New("it isn't")
			}
			return nil
		})
		resp, _ = fetch(t, c, test.url, func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc") })
		if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "14" {
			t.Errorf("%s by gRPC: %d, status %s, want 200 and 14", test.url, resp.StatusCode, resp.Header.Get("Grpc-Status"))
		}
	}
}

// The words are Istio's.
const (
	textNoEndpoint = "no healthy upstream"
	textConnect    = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
	textBroken     = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
	textTimeout    = "upstream request timeout"
)

func TestFailuresAreTriedAgainAsTheRouteSays(t *testing.T) {
	m := newMesh(t)
	var asked atomic.Int32
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if n := asked.Add(1); n%3 != 0 {
			w.WriteHeader(503)
			return
		}
		fmt.Fprintf(w, "at last %d", len(body))
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again, less := rule("/again", "web"), rule("/less", "web")
	again.Retry, less.Retry = &l7.Retry{Attempts: 2, Statuses: []uint32{503}, BackoffMs: 1}, &l7.Retry{Attempts: 1, Statuses: []uint32{503}, BackoffMs: 1}
	m.know(httpRoute("web", "web", again, less, rule("/", "web")))
	c := m.browser(m.caller("shop", "client"))
	send := func(path string, bytes int) (int, string) {
		asked.Store(0)
		resp, text := fetch(t, c, "http://web"+path, func(r *http.Request) {
			r.Method, r.Body = "POST", io.NopCloser(strings.NewReader(strings.Repeat("x", bytes)))
		})
		return resp.StatusCode, text
	}
	for _, test := range []struct {
		path   string
		bytes  int
		status int
		tries  int32
	}{
		{"/again", 0, 200, 3},
		{"/again", 60_000, 200, 3},
		{"/again", 600_000, 503, 1}, // more than is kept
		{"/less", 10, 503, 2},
		{"/", 10, 503, 1},
	} {
		status, text := send(test.path, test.bytes)
		if status != test.status || asked.Load() != test.tries {
			t.Errorf("%s with %d bytes: %d after %d tries, want %d after %d", test.path, test.bytes, status, asked.Load(), test.status, test.tries)
		}
		if status == 200 && text != fmt.Sprintf("at last %d", test.bytes) {
			t.Errorf("%s with %d bytes: %q", test.path, test.bytes, text)
		}
	}
}

// A client that gives up while the next try is waited for has no further one.
func TestNothingIsTriedAgainForAClientThatHasGone(t *testing.T) {
	m := newMesh(t)
	asked, left := make(chan string, 10), make(chan struct{}, 10)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.WriteHeader(503)
		if r.URL.Path == "/gone" { // until the waypoint has let go of it, to try again
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			left <- struct{}{}
		}
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 1, Statuses: []uint32{503}, BackoffMs: 500}
	m.know(httpRoute("web", "web", again))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://web/gone", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if resp, err := m.browser2(m.caller("shop", "client")).Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	<-asked
	<-left
	cancel()
	<-ended
	m.eventually("the waypoint to hear of it", func() error {
		if m.metric("istio_requests_total", `response_flags="DC"`) != 1 {
			return errors.New("it hasn't")
		}
		return nil
	})
	if resp, _ := fetch(t, m.browser(m.caller("shop", "client")), "http://web/after"); resp.StatusCode != 503 { // which takes longer
		t.Errorf("status %d", resp.StatusCode)
	}
	for range 2 {
		if got := <-asked; got != "/after" {
			t.Errorf("the server is asked for %s", got)
		}
	}
}

// A retry storm is what keeps a server down. Of very many requests that all fail, only a fifth is tried again.
func TestRetriesAreBounded(t *testing.T) {
	m := newMesh(t)
	var asked atomic.Int32
	hold := make(chan struct{})
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-hold
		w.WriteHeader(503)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	again := rule("/", "web")
	again.Retry = &l7.Retry{Attempts: 10, Statuses: []uint32{503}, BackoffMs: 1}
	m.know(httpRoute("web", "web", again))
	c := m.browser(m.caller("shop", "client"))
	const requests = 50
	ended := make(chan struct{}, requests)
	for range requests {
		go func() {
			resp, err := c.Get("http://web/")
			if err == nil {
				resp.Body.Close()
			}
			ended <- struct{}{}
		}()
	}
	m.eventually("all requests to be under way", func() error {
		if n := asked.Load(); n < requests {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	close(hold)
	for range requests {
		<-ended
	}
	if n := asked.Load(); n > requests+10*10 { // ten at a time, ten times each
		t.Errorf("%d requests came of %d", n, requests)
	}
}

func TestMirrorsGetCopies(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("main"))
	copies := make(chan string, 10)
	m.serve(serverHost+1, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		copies <- r.Method + " " + r.URL.Path + " " + string(body)
		w.WriteHeader(500)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(m.service("shadow", httpPort, 8080, serverHost+1)...)
	both := rule("/", "web")
	both.Filters = &l7.Filters{Mirrors: []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}}}}
	m.know(httpRoute("web", "web", both))
	c := m.browser(m.caller("shop", "client"))
	fetch(t, c, "http://web/long", func(r *http.Request) { // of which there is no copy
		r.Method, r.Body = "POST", io.NopCloser(strings.NewReader(strings.Repeat("x", 100_000)))
	})
	resp, text := fetch(t, c, "http://web/x", func(r *http.Request) { r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("hello")) })
	if resp.StatusCode != 200 || text != "main POST /x host=web hello" {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
	select {
	case got := <-copies:
		if got != "POST /x hello" {
			t.Errorf("the copy is %q", got)
		}
	case <-time.After(patience):
		t.Error("no copy came")
	}
}

// A copy is made of a request that is answered before it is complete, too.
func TestMirrorsGetCopiesOfWhatIsAnsweredEarly(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	})
	copies := make(chan string, 1)
	m.serve(serverHost+1, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		copies <- string(body)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(m.service("shadow", httpPort, 8080, serverHost+1)...)
	both := rule("/", "web")
	both.Filters = &l7.Filters{Mirrors: []*l7.Mirror{{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}}}}
	m.know(httpRoute("web", "web", both))
	conn, err := m.through(m.caller("shop", "client"), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhe")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Fprint(conn, "llo")
	if text, err := io.ReadAll(resp.Body); string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
	select {
	case got := <-copies:
		if got != "hello" {
			t.Errorf("the copy is %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no copy came")
	}
}

// A mirror that doesn't answer holds up nobody, and costs no more than so many copies.
func TestOnlySoManyCopiesAreUnderWay(t *testing.T) {
	m := newMesh(t)
	m.serve(serverHost, echo("main"))
	var now, most atomic.Int32
	m.serve(serverHost+1, func(_ http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-r.Context().Done()
		now.Add(-1)
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(m.service("shadow", workload.AppProtocol_HTTP2, 8080, serverHost+1)...)
	both := rule("/", "web")
	for range 10 {
		both.Filters = &l7.Filters{Mirrors: append(both.GetFilters().GetMirrors(), &l7.Mirror{Backend: &l7.BackendRef{Service: "shop/shadow.shop", Port: 80}})}
	}
	m.know(httpRoute("web", "web", both))
	c := m.browser(m.caller("shop", "client"))
	begun := time.Now()
	for range 110 {
		if resp, _ := fetch(t, c, "http://web/"); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	m.eventually("the copies to have come", func() error {
		if n := most.Load(); n < 1000 && time.Since(begun) < 10*time.Second { // after which they are given up
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := most.Load(); n > 1000 {
		t.Errorf("%d copies at once, want at most 1000", n)
	}
}

func TestAChangedRouteFailsNoRequest(t *testing.T) {
	m := newMesh(t)
	for i, name := range []string{"v1", "v2"} {
		m.serve(serverHost+byte(i), echo(name))
		m.know(m.service(name, httpPort, 8080, serverHost+byte(i))...)
	}
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	m.know(httpRoute("web", "web", rule("/", "v1")))
	c := m.browser(m.caller("shop", "client"))
	stop, failed, done := make(chan struct{}), make(chan string, 1), make(chan struct{})
	var made atomic.Int32
	go func() {
		defer close(done)
		for ; ; made.Add(1) {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := c.Get("http://web/")
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if err != nil || resp.StatusCode != 200 {
				select {
				case failed <- fmt.Sprint(err, resp):
				default:
				}
			}
		}
	}()
	for i := 0; i < 100 || made.Load() < 500; i++ {
		m.know(httpRoute("web", "web", rule("/", []string{"v1", "v2"}[i%2])))
	}
	close(stop)
	<-done
	select {
	case what := <-failed:
		t.Error(what)
	default:
	}
}

func TestADrainFailsNoRequest(t *testing.T) {
	m := newMesh(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	m.serve(serverHost, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	m.know(m.service("web", httpPort, 8080, serverHost)...)
	c := m.browser(m.caller("shop", "client"))
	answer := make(chan string, 1)
	go func() {
		resp, err := c.Get("http://web/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(text), err)
	}()
	<-arrived
	m.drain.Start("the test drains it")
	m.eventually("new tunnels to be refused", func() error {
		conn, err := net.Dial("tcp", m.at(15008))
		if err != nil {
			return nil
		}
		conn.Close()
		return errors.New("it is taken")
	})
	close(release)
	if got := <-answer; got != "done<nil>" {
		t.Errorf("the request that was under way: %s", got)
	}
	if err := <-m.ended; err != nil { // at once, as the client has been told to let go
		t.Error(err)
	}
	m.ended <- nil
	if strings.Contains(m.log.String(), "drain forced") {
		t.Error("the drain took all its time")
	}
}
