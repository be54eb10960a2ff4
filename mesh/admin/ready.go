package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Readiness knows what a program still waits for. The zero value waits for nothing. It is safe for concurrent use.
type Readiness struct {
	mu      sync.Mutex
	pending []string // in order of Begin, without duplicates
}

// Begin makes the program not ready until Done of the same task. A task may begin again later.
func (r *Readiness) Begin(task string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.pending, task) {
		r.pending = append(r.pending, task)
	}
}

// Done ends a task; it is nothing special if that wasn't begun.
func (r *Readiness) Done(task string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = slices.DeleteFunc(r.pending, func(p string) bool { return p == task })
}

// Pending lists the tasks that aren't done.
func (r *Readiness) Pending() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.pending)
}

// ServeHTTP answers 200 and "ready", or 500 and what is missing.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if pending := r.Pending(); len(pending) > 0 {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "not ready, pending: %s\n", strings.Join(pending, ", "))
		return
	}
	fmt.Fprint(w, "ready\n")
}
