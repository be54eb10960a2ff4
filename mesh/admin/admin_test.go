package admin_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, addr string, handler http.Handler, log io.Writer) *admin.Server {
	t.Helper()
	s, err := admin.Start(admin.Config{Addr: addr, Handler: handler, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { http.DefaultClient.CloseIdleConnections(); s.Close() })
	return s
}

func ask(t *testing.T, method, url string, body io.Reader) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestReadinessNamesWhatIsPending(t *testing.T) {
	var ready admin.Readiness
	s := start(t, "127.0.0.1:0", &ready, io.Discard)
	url := "http://" + s.Addrs()[0].String()
	for _, step := range []struct {
		do     func()
		status int
		body   string
	}{
		{func() {}, 200, "ready\n"},
		{func() {
			ready.Begin("state manager")
			ready.Begin("workload proxy manager")
			ready.Begin("state manager")
		}, 500, "not ready, pending: state manager, workload proxy manager\n"},
		{func() { ready.Done("state manager"); ready.Done("never begun") }, 500, "not ready, pending: workload proxy manager\n"},
		{func() { ready.Done("workload proxy manager") }, 200, "ready\n"},
		{func() { ready.Begin("workload proxy manager") }, 500, "not ready, pending: workload proxy manager\n"},
	} {
		step.do()
		if status, body := ask(t, "GET", url, nil); status != step.status || body != step.body {
			t.Errorf("got %d %q, want %d %q", status, body, step.status, step.body)
		}
	}
}

func TestLocalhostIsBothLoopbackAddresses(t *testing.T) {
	s := start(t, "localhost:0", http.NotFoundHandler(), io.Discard)
	if len(s.Addrs()) != 2 {
		t.Fatalf("listens on %v, want 127.0.0.1 and ::1", s.Addrs())
	}
	for _, addr := range s.Addrs() {
		if status, _ := ask(t, "GET", "http://"+addr.String(), nil); status != 404 {
			t.Errorf("%s answers %d", addr, status)
		}
	}
}

func TestMissingIPv6LoopbackIsAWarning(t *testing.T) {
	taken, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var log bytes.Buffer
	s := start(t, fmt.Sprintf("localhost:%d", taken.Addr().(*net.TCPAddr).Port), http.NotFoundHandler(), &log)
	if len(s.Addrs()) != 1 || !strings.Contains(log.String(), "not reachable by IPv6") {
		t.Errorf("listens on %v, log %q", s.Addrs(), &log)
	}
}

func TestTakenPortIsAnError(t *testing.T) {
	s := start(t, "127.0.0.1:0", http.NotFoundHandler(), io.Discard)
	for _, addr := range []string{s.Addrs()[0].String(), strings.Replace(s.Addrs()[0].String(), "127.0.0.1", "localhost", 1), "no port"} {
		if again, err := admin.Start(admin.Config{Addr: addr, Log: slog.New(slog.DiscardHandler)}); err == nil {
			again.Close()
			t.Errorf("listening on %q succeeds", addr)
		}
	}
}

func TestPages(t *testing.T) {
	level, quit := "info", 0
	pages := append(admin.Profiles(),
		admin.Logging(admin.Levels{
			Get:   func() string { return level },
			Reset: func() { level = "info" },
			Set: func(text string) error {
				if strings.Contains(text, "shout") {
					return errors.New(`unknown level "shout"`)
				}
				level = text
				return nil
			},
		}),
		admin.Quit(func() { quit++ }),
		admin.JSON("/config_dump", "all <there> is", func() any { return map[string]int{"workloads": 3} }),
		admin.JSON("/broken", "", func() any { return func() {} }),
	)
	url := "http://" + start(t, "127.0.0.1:0", admin.Pages("tulle & co", pages), io.Discard).Addrs()[0].String()
	for _, step := range []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/", 200, "tulle &amp; co"},
		{"GET", "/", 200, `<a href="/config_dump">/config_dump</a> all &lt;there&gt; is`},
		{"GET", "/nothing", 404, ""},
		{"GET", "/config_dump", 200, "{\n  \"workloads\": 3\n}\n"},
		{"GET", "/broken", 500, "unsupported type"},
		{"GET", "/debug/pprof/", 200, "heap"},
		{"GET", "/debug/pprof/heap", 200, ""},
		{"GET", "/debug/pprof/heap/profiling", 200, ""},
		{"GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{"GET", "/debug/pprof/profile?seconds=1&frequency=100", 200, ""},
		{"GET", "/debug/pprof/profile?seconds=0", 400, "from 1 to 300"},
		{"GET", "/debug/pprof/profile?seconds=301", 400, "from 1 to 300"},
		{"GET", "/debug/pprof/profile?seconds=x", 400, "from 1 to 300"},
		{"GET", "/logging", 405, "use POST"},
		{"POST", "/logging", 200, "current log levels: info\n"},
		{"POST", "/logging?level=debug", 200, "current log levels: debug\n"},
		{"POST", "/logging?level=warn,access=debug&xds=debug&rbac=info", 200, "current log levels: warn,access=debug,rbac=info,xds=debug\n"},
		{"POST", "/logging?level=shout", 400, `unknown level "shout"`},
		{"POST", "/logging?reset", 200, "current log levels: info\n"},
		{"GET", "/quitquitquit", 405, "use POST"},
		{"POST", "/quitquitquit", 200, "shutdown now\n"},
	} {
		status, body := ask(t, step.method, url+step.path, nil)
		if status != step.status || !strings.Contains(body, step.contains) {
			t.Errorf("%s %s: got %d %q, want %d with %q", step.method, step.path, status, body, step.status, step.contains)
		}
	}
	if quit != 1 {
		t.Errorf("quit was called %d times, want once", quit)
	}
}

func TestRequestsAreLimited(t *testing.T) {
	var failed error
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, failed = io.Copy(io.Discard, r.Body) })
	addr := start(t, "127.0.0.1:0", handler, io.Discard).Addrs()[0].String()
	ask(t, "POST", "http://"+addr, bytes.NewReader(make([]byte, 2<<20)))
	var tooLarge *http.MaxBytesError
	if !errors.As(failed, &tooLarge) {
		t.Errorf("a body of 2 MiB: %v, want it refused", failed)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("a", 64<<10))
	answer, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 431") {
		t.Errorf("64 KiB of headers: %.40q, want 431", answer)
	}
}

func TestAPageThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	broken := false
	page := admin.Stream("/dump", "", func(w io.Writer) error {
		_, err := fmt.Fprint(w, strings.Repeat("x", 100_000))
		if broken {
			return errors.New("no more")
		}
		return err
	})
	url := "http://" + start(t, "127.0.0.1:0", admin.Pages("tulle", []admin.Page{page}), io.Discard).Addrs()[0].String() + "/dump"
	if status, body := ask(t, "GET", url, nil); status != 200 || len(body) != 100_000 {
		t.Errorf("%d, %d bytes", status, len(body))
	}
	broken = true
	response, err := http.Get(url)
	if err == nil {
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	if err == nil {
		t.Error("a page that broke off reads as whole")
	}
}
