package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Page is one address of an admin server.
type Page struct {
	Path    string // below it, too, if it ends in a slash
	Title   string // what the dashboard says about it; "" leaves it out there
	Handler http.Handler
}

// Pages serves the pages, and at / a dashboard with links to them.
func Pages(title string, pages []Page) http.Handler {
	mux := http.NewServeMux()
	for _, p := range pages {
		mux.Handle(p.Path, p.Handler)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		title := html.EscapeString(title)
		fmt.Fprintf(w, "<!doctype html><title>%s</title><h1>%s</h1><ul>\n", title, title)
		for _, p := range pages {
			if p.Title != "" {
				fmt.Fprintf(w, "<li><a href=\"%s\">%s</a> %s\n", html.EscapeString(p.Path), html.EscapeString(p.Path), html.EscapeString(p.Title))
			}
		}
		fmt.Fprint(w, "</ul>\n")
	})
	return mux
}

// Profiles returns the pages of the Go profiler, with Istio's names and limits.
func Profiles() []Page {
	return []Page{
		{"/debug/pprof/", "profiles: heap, goroutine, block, mutex", http.HandlerFunc(pprof.Index)},
		{"/debug/pprof/heap/profiling", "", pprof.Handler("heap")},
		{"/debug/pprof/profile", "CPU profile (seconds=1…300, 10 if not set)", http.HandlerFunc(profile)},
		{"/debug/pprof/cmdline", "", http.HandlerFunc(pprof.Cmdline)},
		{"/debug/pprof/symbol", "", http.HandlerFunc(pprof.Symbol)},
		{"/debug/pprof/trace", "", http.HandlerFunc(pprof.Trace)},
	}
}

// profile takes a CPU profile of at most 5 minutes, so that none is forgotten.
func profile(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if !query.Has("seconds") {
		query.Set("seconds", "10")
	}
	if n, err := strconv.Atoi(query.Get("seconds")); err != nil || n < 1 || n > 300 {
		http.Error(w, fmt.Sprintf("seconds=%.20q: want a whole number from 1 to 300", query.Get("seconds")), http.StatusBadRequest)
		return
	}
	r.Form = query
	pprof.Profile(w, r)
}

// Levels is what the log level page needs: telemetry.Levels offers it.
type Levels struct {
	Get   func() string
	Set   func(string) error // "info", or "info,access=debug"; an error tells what is wrong with the text
	Reset func()             // back to the levels of the start
}

// Logging returns the page that shows the log levels, and changes them by POST ?level=debug, ?access=debug or ?reset.
func Logging(levels Levels) Page {
	return Page{"/logging", "log levels (POST ?level=debug, ?scope=debug, ?reset)", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !onlyPost(w, r) {
			return
		}
		query := r.URL.Query()
		switch {
		case query.Has("reset"):
			levels.Reset()
		case len(query) > 0:
			if err := levels.Set(wish(query)); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		fmt.Fprintf(w, "current log levels: %s\n", levels.Get())
	})}
}

// wish turns ?level=info,access=debug&rbac=debug into info,access=debug,rbac=debug.
func wish(query map[string][]string) string {
	words := slices.Clone(query["level"])
	for _, scope := range slices.Sorted(maps.Keys(query)) {
		for _, value := range query[scope] {
			if scope != "level" {
				words = append(words, scope+"="+value)
			}
		}
	}
	return strings.Join(words, ",")
}

// Quit returns the page whose POST ends the program.
func Quit(quit func()) Page {
	return Page{"/quitquitquit", "stop gracefully (POST)", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if onlyPost(w, r) {
			fmt.Fprint(w, "shutdown now\n")
			quit()
		}
	})}
}

const (
	// dumps of one page are made at a time, since a large mesh's takes memory until it is read. One more waits for dumpWait.
	dumps    = 2
	dumpWait = 5 * time.Second
	// dumpTime is how long a reader may take.
	dumpTime = 30 * time.Second
)

// few lets a page be made a few times at once.
func few(page http.HandlerFunc) http.Handler {
	slots := make(chan struct{}, dumps)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), dumpWait)
		defer cancel()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			w.Header().Set("Retry-After", "5")
			http.Error(w, "others are reading this page; try again", http.StatusServiceUnavailable)
			return
		}
		// A writer that knows no deadlines, such as a test's, keeps nobody waiting.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(dumpTime))
		page(w, r)
	})
}

// JSON returns a page that shows a value, made anew at each request.
func JSON(path, title string, value func() any) Page {
	return Page{path, title, few(func(w http.ResponseWriter, _ *http.Request) {
		text, err := json.MarshalIndent(value(), "", "  ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(text, '\n')) // a reader that is gone needs no answer
	})}
}

// Stream returns a page of JSON that is written while it is made. An error cuts the connection, so that nobody takes what there
// is for everything.
func Stream(path, title string, write func(io.Writer) error) Page {
	return Page{path, title, few(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := write(w); err != nil {
			panic(http.ErrAbortHandler)
		}
	})}
}

func onlyPost(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodPost {
		return true
	}
	w.Header().Set("Allow", http.MethodPost)
	http.Error(w, "use POST, so that following a link changes nothing", http.StatusMethodNotAllowed)
	return false
}
