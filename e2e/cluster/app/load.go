package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	patience   = 10 * time.Second       // of one request
	maxOpen    = 500                    // requests over new connections at a time
	heldEvery  = 100 * time.Millisecond // between the requests of a connection that is held
	maxKept    = 100                    // failures that are told in full
	goodAnswer = "pod="                 // how an answer of serve begins
)

// load is traffic that this pod makes: requests over new connections at a steady rate, and others over a few that are held.
type load struct {
	url    string
	stop   context.CancelFunc
	ended  sync.WaitGroup
	client *http.Client // of requests over new connections

	mu     sync.Mutex
	counts counts
}

// counts are what became of a load.
type counts struct {
	Requests int           // that had an answer or failed, over new connections and held ones
	Failed   int           // of these
	Dialled  int           // how often the held connections were made
	Slowest  time.Duration // of the requests that were answered
	Failures []failure     // the first
}

type failure struct {
	Began time.Time
	Held  bool
	Why   string
}

// startLoad begins rate requests a second over new connections, and held connections with ten a second each.
func startLoad(query url.Values) (*load, error) {
	rate, err := strconv.Atoi(query.Get("rate"))
	if err != nil || rate < 1 || rate > 5000 {
		return nil, fmt.Errorf("rate %q: want 1 to 5000 requests a second", query.Get("rate"))
	}
	held, err := strconv.Atoi(query.Get("held"))
	if err != nil || held < 0 || held > 100 {
		return nil, fmt.Errorf("held %q: want 0 to 100 connections", query.Get("held"))
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &load{url: query.Get("url"), stop: stop}
	l.client = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	l.ended.Go(func() { l.anew(ctx, time.Second/time.Duration(rate)) })
	for range held {
		l.ended.Go(func() { l.hold(ctx) })
	}
	return l, nil
}

// end stops a load and waits for the requests that are under way.
func (l *load) end() counts {
	l.stop()
	l.ended.Wait()
	return l.counts
}

func (l *load) anew(ctx context.Context, every time.Duration) {
	open := make(chan struct{}, maxOpen)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		select {
		case open <- struct{}{}:
			l.ended.Go(func() { l.request(l.client, false); <-open })
		default:
			l.count(time.Now(), false, fmt.Errorf("%d requests wait for an answer", maxOpen))
		}
	}
}

func (l *load) hold(ctx context.Context) {
	var dialer net.Dialer
	transport := &http.Transport{MaxConnsPerHost: 1, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		l.mu.Lock()
		l.counts.Dialled++
		l.mu.Unlock()
		return dialer.DialContext(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: patience, Transport: transport}
	ticker := time.NewTicker(heldEvery)
	defer ticker.Stop()
	for {
		l.request(client, true)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (l *load) request(client *http.Client, held bool) {
	began := time.Now()
	l.count(began, held, ask(client, l.url, func(answer string) error {
		if !strings.HasPrefix(answer, goodAnswer) {
			return fmt.Errorf("answer %q", answer)
		}
		return nil
	}))
}

// ask requests a URL, and takes its whole answer if it is 200.
func ask(client *http.Client, url string, take func(answer string) error) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	return take(string(text))
}

func (l *load) count(began time.Time, held bool, err error) {
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Requests++
	if err == nil {
		l.counts.Slowest = max(l.counts.Slowest, took)
		return
	}
	l.counts.Failed++
	if len(l.counts.Failures) < maxKept {
		l.counts.Failures = append(l.counts.Failures, failure{began, held, err.Error()})
	}
}

// loads serves /load/start, and /load/stop, which answers with the counts. There is one load at a time for each URL.
func loads() {
	var mu sync.Mutex
	running := map[string]*load{}
	end := func(url string) (last counts) {
		mu.Lock()
		l := running[url]
		delete(running, url)
		mu.Unlock()
		if l != nil {
			last = l.end()
		}
		return last
	}
	http.HandleFunc("/load/start", func(w http.ResponseWriter, r *http.Request) {
		end(r.FormValue("url"))
		l, err := startLoad(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		running[l.url] = l
		mu.Unlock()
	})
	http.HandleFunc("/load/stop", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(end(r.FormValue("url"))) // who asked may be gone
	})
}
