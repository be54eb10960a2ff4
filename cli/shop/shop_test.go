package shop

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run serves a part of the application and returns its URL; the cleanup ends it and expects no error.
func run(t *testing.T, part http.Handler) *url.URL {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, part, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/"}
}

func body(t *testing.T, response *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", response.StatusCode, text)
}

func TestBackendSaysWhatItSees(t *testing.T) {
	backend := run(t, Backend("v2", "backend-v2"))
	request, err := http.NewRequest(http.MethodGet, backend.String()+"?order=17", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Color", "teal")
	response, err := http.DefaultClient.Do(request)
	got := body(t, response, err)
	for _, want := range []string{"200 backend v2 on backend-v2\n", "peer: 127.0.0.1:", "request: GET /?order=17 HTTP/1.1\n", "host: " + backend.Host, "x-color: teal\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestFrontendShowsTheBackendsAnswer(t *testing.T) {
	frontend := run(t, Frontend(run(t, Backend("v1", "b"))))
	response, err := http.Get(frontend.String() + "?q=<b>")
	if got := body(t, response, err); !strings.Contains(got, "backend v1 on b") || !strings.Contains(got, "GET /?q=%3Cb%3E") && !strings.Contains(got, "GET /?q=&lt;b&gt;") {
		t.Errorf("got\n%s", got)
	}
}

func TestFrontendSaysThatTheBackendIsAway(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer broken.Close()
	to, err := url.Parse(broken.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, backend := range []*url.URL{to, {Scheme: "http", Host: "127.0.0.1:1"}} {
		response, err := http.Get(run(t, Frontend(backend)).String())
		if got := body(t, response, err); !strings.HasPrefix(got, "502 the backend doesn't answer: ") {
			t.Errorf("got %q", got)
		}
	}
}

func TestStreamLastsAsLongAsItsReader(t *testing.T) {
	backend := run(t, Backend("v1", "b"))
	response, err := http.Get(backend.String() + "stream?every=1ms")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(response.Body)
	for i := 1; i <= 5; i++ {
		if !lines.Scan() || lines.Text() != fmt.Sprint("line ", i) {
			t.Fatalf("line %d is %q", i, lines.Text())
		}
	}
	response.Body.Close()
	for _, bad := range []string{"0s", "never", "1000h"} {
		response, err := http.Get(backend.String() + "stream?every=" + bad)
		if got := body(t, response, err); !strings.HasPrefix(got, "400 ") {
			t.Errorf("every=%s: %q", bad, got)
		}
	}
}

func TestOpenStreamsDontHoldTheEndUp(t *testing.T) {
	began := time.Now()
	t.Run("stream", func(t *testing.T) {
		response, err := http.Get(run(t, Backend("v1", "b")).String() + "stream")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
	})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it ended after %s", took)
	}
}

func TestAddressInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := Serve(t.Context(), listener.Addr().String(), Backend("v1", "b"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it serves on an address in use")
	}
}
