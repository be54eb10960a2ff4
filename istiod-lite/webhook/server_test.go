package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func served(t *testing.T) (*Server, *httptest.Server) {
	s := NewServer(Config{Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server
}

func TestRequestsThatAreNoQuestionsAreRefused(t *testing.T) {
	_, server := served(t)
	const body = `{"kind":"AdmissionReview"}`
	for name, test := range map[string]struct {
		method, path, media, body string
		want                      int
	}{
		"another path":          {"POST", "/inject", "application/json", body, http.StatusNotFound},
		"a question by GET":     {"GET", "/validate", "application/json", "", http.StatusMethodNotAllowed},
		"no type":               {"POST", "/validate", "", body, http.StatusUnsupportedMediaType},
		"YAML":                  {"POST", "/validate", "application/yaml", body, http.StatusUnsupportedMediaType},
		"nothing":               {"POST", "/validate", "application/json", "", http.StatusBadRequest},
		"no request":            {"POST", "/validate/", "application/json; charset=utf-8", body, http.StatusBadRequest},
		"more than can be":      {"POST", "/validate", "application/json", strings.Repeat(" ", maxBody+1), http.StatusRequestEntityTooLarge},
		"a question":            {"POST", "/validate", "application/json", string(question("CREATE", "AuthorizationPolicy", policy(good), "")), http.StatusOK},
		"one with a last slash": {"POST", "/validate/", "application/json", string(question("CREATE", "AuthorizationPolicy", policy(good), "")), http.StatusOK},
		"one with a time limit": {"POST", "/validate?timeout=10s", "application/json", string(question("CREATE", "AuthorizationPolicy", policy(wrong), "")), http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), test.method, server.URL+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", test.media)
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			text, _ := io.ReadAll(response.Body)
			if response.StatusCode != test.want {
				t.Errorf("status %d, want %d: %s", response.StatusCode, test.want, text)
			}
		})
	}
}

// Whoever reaches the port can begin many questions and never end them: the API server's are answered all the same.
func TestWhoSendsSlowlyKeepsNobodyWaiting(t *testing.T) {
	s, server := served(t)
	for range 4 * maxReviews {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprint(conn, "POST /validate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	}
	for deadline := time.Now().Add(10 * time.Second); s.room.Load() != maxBodies-4*maxReviews; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes of room are left: the slow ones haven't come", s.room.Load())
		}
	}
	client := &http.Client{Timeout: 5 * time.Second}
	response, err := client.Post(server.URL+"/validate", "application/json", bytes.NewReader(question("CREATE", "AuthorizationPolicy", policy(good), "")))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %d", response.StatusCode)
	}
}

func TestWhoHoldsConnectionsKeepsNobodyWaiting(t *testing.T) {
	lent := httptest.NewTLSServer(http.NotFoundHandler())
	certificates := lent.TLS.Certificates
	lent.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Config{Listener: listener, TLS: &tls.Config{Certificates: certificates}, Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	anyone := &tls.Config{InsecureSkipVerify: true}
	for range maxConnections {
		conn, err := tls.Dial("tcp", listener.Addr().String(), anyone)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: anyone, DisableKeepAlives: true}}
	response, err := client.Post("https://"+listener.Addr().String()+"/validate", "application/json", bytes.NewReader(question("CREATE", "AuthorizationPolicy", policy(good), "")))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

func TestBodiesShareTheirRoom(t *testing.T) {
	s, server := served(t)
	ask := func() int {
		response, err := server.Client().Post(server.URL+"/validate", "application/json", bytes.NewReader(question("CREATE", "AuthorizationPolicy", policy(good), "")))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	s.room.Store(10)
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("status %d without room", code)
	}
	s.room.Add(maxBodies - 10)
	if code := ask(); code != http.StatusOK {
		t.Errorf("status %d with room", code)
	}
	if left := s.room.Load(); left != maxBodies {
		t.Errorf("%d bytes of room are left of %d", left, maxBodies)
	}
}

func TestRefusalsAreCountedByKnownNamesOnly(t *testing.T) {
	s, server := served(t)
	for _, kind := range []string{"AuthorizationPolicy", "AuthorizationPolicy", "Made-up"} {
		body := question("CREATE", kind, policy(wrong), "")
		response, err := server.Client().Post(server.URL+"/validate", "application/json", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	families, err := s.cfg.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 1 || len(families[0].Metric) != 1 || families[0].Metric[0].Counter.GetValue() != 2 {
		t.Errorf("%v", families)
	}
}
