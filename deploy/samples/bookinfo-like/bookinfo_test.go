package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// app starts all services but some on loopback, with this version of reviews, and returns the address of the page.
func app(t *testing.T, version string, without ...string) string {
	t.Helper()
	listeners := map[string]net.Listener{}
	for name := range services {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[name] = l
	}
	at := func(name string) string { return listeners[name].Addr().String() }
	c := config{Version: version, Pod: "reviews-" + version, Details: at("details"), Reviews: at("reviews"), Ratings: at("ratings"), Stars: at("mongodb")}
	for _, name := range without {
		listeners[name].Close()
		delete(listeners, name)
	}
	for name, l := range listeners {
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- services[name].run(ctx, l, c) }()
		t.Cleanup(func() {
			client.CloseIdleConnections()
			stop()
			if err := <-ended; err != nil {
				t.Errorf("%s ends with %v", name, err)
			}
		})
	}
	return "http://" + at("productpage")
}

func get(t *testing.T, url string) (status int, text string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestThePageShowsWhatEachServiceSays(t *testing.T) {
	for version, stars := range map[string]string{"v1": "", "v2": `<p style="color: black">★★★★★</p>`, "v3": `<p style="color: red">★★★★</p>`} {
		status, text := get(t, app(t, version)+"/productpage")
		for _, want := range []string{"The Comedy of Errors", "William Shakespeare", "slapstick", "reviews-" + version, stars} {
			if status != http.StatusOK || !strings.Contains(text, want) {
				t.Errorf("%s: status %d, it lacks %q:\n%s", version, status, want, text)
			}
		}
		if version == "v1" && strings.Contains(text, "★") {
			t.Errorf("v1 shows stars:\n%s", text)
		}
	}
}

func TestThePageSaysWhatIsAway(t *testing.T) {
	for away, want := range map[string]string{
		"details": "product details are currently unavailable", "reviews": "product reviews are currently unavailable",
		"ratings": "Ratings service is currently unavailable", "mongodb": "Ratings service is currently unavailable",
	} {
		if status, text := get(t, app(t, "v2", away)+"/productpage"); status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("without %s: status %d, it lacks %q:\n%s", away, status, want, text)
		}
	}
}

func TestThePagesOfProgramsAreJSON(t *testing.T) {
	at := app(t, "v3")
	for path, want := range map[string]string{
		"/api/v1/products":           `"title":"The Comedy of Errors"`,
		"/api/v1/products/0":         `"author":"William Shakespeare"`,
		"/api/v1/products/x/reviews": `"rating":{"stars":5,"color":"red"}`,
		"/health":                    `"status":"healthy"`,
	} {
		if status, text := get(t, at+path); status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: status %d, %s", path, status, text)
		}
	}
}

func TestAServiceHasToBeNamed(t *testing.T) {
	for _, args := range [][]string{nil, {"shop"}, {"details", "reviews"}} {
		if err := run(t.Context(), args, config{}); err == nil || !strings.Contains(err.Error(), "details, mongodb, productpage, ratings, reviews") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func FuzzStars(f *testing.F) {
	for _, line := range []string{"5 4\n", "", "6 1", "1 2 3", "-1 0", "٣ 1"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		found, err := parseStars(line)
		for _, n := range found {
			if n < 0 || n > 5 || err != nil && n != 0 {
				t.Errorf("%q gives %v, %v", line, found, err)
			}
		}
	})
}
