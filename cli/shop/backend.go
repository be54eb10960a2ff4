package shop

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Backend answers with what it sees of the caller. Its pages:
//
//	GET  /        its version and host, the peer's address, the request's line and headers
//	GET  /stream  a line every `every` (a duration, 100 ms unless told), as long as the caller stays
//	POST /echo    the request's body, sent back while it is still being read
//	GET  /bytes   `n` bytes of Pattern, at most 1 GiB
func Backend(version, host string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, describe(version, host, r))
	})
	mux.HandleFunc("GET /stream", stream)
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("GET /bytes", pattern)
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

func echo(w http.ResponseWriter, r *http.Request) {
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	io.Copy(w, r.Body) // An error here is the caller's leaving.
}

func pattern(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
	if err != nil || n < 0 || n > 1<<30 {
		http.Error(w, "n: want a number of bytes up to 1 GiB", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	io.CopyN(w, &Pattern{}, n)
}

// Pattern is an endless reader of bytes that never repeat within 16 MiB in step, so that a lost or doubled piece of a
// transfer shows. The zero value starts at the beginning.
type Pattern struct {
	at uint64
}

// Read never fails.
func (p *Pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byteAt(p.at)
		p.at++
	}
	return len(b), nil
}

// byteAt is the pattern's byte at an offset: the offset's own bytes, one after the other, stirred.
func byteAt(at uint64) byte {
	word := at / 4 * 0x9e3779b1
	return byte(word >> (8 * (at % 4)))
}

// Check is a writer that compares what it gets with Pattern, and fails at the first byte that differs.
type Check struct {
	Size uint64 // so far
}

// Write fails at the first wrong byte and names its offset.
func (c *Check) Write(b []byte) (int, error) {
	for i, got := range b {
		if want := byteAt(c.Size); got != want {
			return i, fmt.Errorf("byte %d is %#02x, want %#02x", c.Size, got, want)
		}
		c.Size++
	}
	return len(b), nil
}
