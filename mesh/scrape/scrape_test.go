package scrape_test

import (
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/tulle-mesh/tulle/mesh/scrape"
)

const plain = "# HELP done_total Things done.\n# TYPE done_total counter\ndone_total 1\n# TYPE more_total counter\nmore_total 2\n"

func counter(t testing.TB) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewRegistry()
	done := prometheus.NewCounter(prometheus.CounterOpts{Name: "done_total", Help: "Things done."})
	done.Inc()
	reg.MustRegister(done)
	return reg
}

func lines(w io.Writer, openMetrics bool) error {
	name := "more_total"
	if openMetrics {
		name = "more"
	}
	_, err := fmt.Fprintf(w, "# TYPE %s counter\nmore_total 2\n", name)
	return err
}

func TestScrapeIsCompressedAsTheScraperLikes(t *testing.T) {
	server := httptest.NewServer(scrape.Handler(counter(t), lines))
	defer server.Close()
	for accept, want := range map[string]string{
		"":                                   "",
		"identity":                           "",
		"compress":                           "",
		"gzip":                               "gzip",
		"GZip;Q=0.5":                         "gzip",
		"zstd":                               "zstd",
		"br":                                 "br",
		"deflate":                            "deflate",
		"gzip, deflate, br, zstd":            "gzip",
		"gzip;q=0.5, br;q=0.9":               "br",
		"gzip;q=0, *":                        "zstd",
		"gzip;q=0":                           "",
		"identity, gzip;q=0.5":               "",
		"gzip;q=2, zstd;q=x":                 "",
		"*;q=0":                              "",
		strings.Repeat("a,", 50) + "gzip":    "gzip", // the same word again is one
		strings.Join(words(50), ",") + ",br": "",
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept-Encoding", accept)
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		got := response.Header.Get("Content-Encoding")
		text, err := io.ReadAll(decompressed(t, response.Body, got))
		response.Body.Close()
		if got != want || err != nil || string(text) != plain {
			t.Errorf("Accept-Encoding %.40q: got %q, want %q; %d bytes, %v", accept, got, want, len(text), err)
		}
		if response.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("Vary: %q", response.Header.Get("Vary"))
		}
	}
}

func words(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint("x", i)
	}
	return list
}

func decompressed(t *testing.T, body io.Reader, encoding string) io.Reader {
	t.Helper()
	var z io.Reader = body
	var err error
	switch encoding {
	case "gzip":
		z, err = gzip.NewReader(body)
	case "deflate":
		z, err = zlib.NewReader(body)
	case "zstd":
		var decoder *zstd.Decoder
		decoder, err = zstd.NewReader(body)
		t.Cleanup(decoder.Close)
		z = decoder
	case "br":
		z = brotli.NewReader(body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestFormatOfAScrapeIsNegotiated(t *testing.T) {
	for accept, want := range map[string]string{
		"":    "text/plain; version=0.0.4",
		"*/*": "text/plain; version=0.0.4",
		"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3": "application/openmetrics-text; version=1.0.0",
		"application/openmetrics-text": "application/openmetrics-text; version=0.0.1",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited": "text/plain; version=0.0.4",
	} {
		request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		request.Header.Set("Accept", accept)
		response := httptest.NewRecorder()
		scrape.Handler(counter(t), lines).ServeHTTP(response, request)
		if got := response.Header().Get("Content-Type"); !strings.HasPrefix(got, want) {
			t.Errorf("Accept %q: %q, want %q", accept, got, want)
		}
		if open := strings.Contains(want, "openmetrics"); open != strings.HasSuffix(response.Body.String(), "# EOF\n") {
			t.Errorf("Accept %q ends with %.40q", accept, response.Body.String()[max(0, response.Body.Len()-40):])
		}
	}
}

type slowGatherer struct{ begun, end chan struct{} }

func (g slowGatherer) Gather() ([]*dto.MetricFamily, error) {
	g.begun <- struct{}{}
	<-g.end
	return nil, nil
}

func TestAFourthScrapeAtATimeIsTurnedAway(t *testing.T) {
	g := slowGatherer{make(chan struct{}), make(chan struct{})}
	handler := scrape.Handler(g)
	ask := func() int {
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return response.Code
	}
	codes := make(chan int)
	for range 3 {
		go func() { codes <- ask() }()
		<-g.begun
	}
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("fourth: %d, want 503", code)
	}
	close(g.end)
	for range 3 {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("one of three: %d", code)
		}
	}
}

func TestAScrapeThatFailsSaysWhy(t *testing.T) {
	failing := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("out of order") })
	response := httptest.NewRecorder()
	scrape.Handler(failing).ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if response.Code != http.StatusInternalServerError || !strings.Contains(response.Body.String(), "out of order") {
		t.Errorf("%d %s", response.Code, response.Body)
	}
}

func FuzzAcceptEncoding(f *testing.F) {
	f.Add("gzip;q=0.5, br;q=0.9, *;q=0.1")
	f.Add("zstd;q=, ;;, deflate;q=1.0001")
	handler := scrape.Handler(counter(f), lines)
	f.Fuzz(func(t *testing.T, accept string) {
		request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		request.Header.Set("Accept-Encoding", accept)
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, request)
		text, err := io.ReadAll(decompressed(t, response.Body, response.Header().Get("Content-Encoding")))
		if err != nil || string(text) != plain {
			t.Errorf("%q: %v: %.80q", accept, err, text)
		}
	})
}
