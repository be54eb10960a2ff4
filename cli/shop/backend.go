package shop

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Backend answers with what it sees of the caller. Its pages:
//
//	GET /        its version and host, the peer's address, the request's line and headers
//	GET /stream  a line every `every` (a duration, 100 ms unless told), as long as the caller stays
func Backend(version, host string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, describe(version, host, r))
	})
	mux.HandleFunc("GET /stream", stream)
	return mux
}

// describe shows a request as the backend got it.
func describe(version, host string, r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "backend %s on %s\npeer: %s\nrequest: %s %s %s\nhost: %s\n", version, host, r.RemoteAddr, r.Method, r.RequestURI, r.Proto, r.Host)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(&b, "%s: %s\n", strings.ToLower(name), strings.Join(r.Header[name], ", "))
	}
	return b.String()
}

func stream(w http.ResponseWriter, r *http.Request) {
	every, err := time.ParseDuration(r.FormValue("every"))
	if r.FormValue("every") == "" {
		every, err = 100*time.Millisecond, nil
	}
	if err != nil || every < time.Millisecond || every > time.Hour {
		http.Error(w, "every: want a duration from 1ms to 1h", http.StatusBadRequest)
		return
	}
	out := http.NewResponseController(w)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for line := 1; ; line++ {
		if _, err := fmt.Fprintln(w, "line", line); err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}
