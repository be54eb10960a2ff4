package controlplane

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
)

// sideBySide is how many tests run at once: mostly, they wait.
const sideBySide = 5

// servers are for all tests that leave them as they were.
var servers pool

// pool are API servers with everything. Each is lent to one test at a time.
type pool struct {
	dir string // for their data

	lock    sync.Mutex
	idle    []*lent
	started int
}

// lent is an API server, with what was there before any test.
type lent struct {
	*apiserver.Server
	before apiserver.Snapshot
}

// take waits for no other test: there are as many servers as tests at once.
func (p *pool) take(t *testing.T) *lent {
	t.Helper()
	p.lock.Lock()
	if last := len(p.idle) - 1; last >= 0 {
		defer p.lock.Unlock()
		server := p.idle[last]
		p.idle = p.idle[:last]
		return server
	}
	p.started++
	dir := filepath.Join(p.dir, "server-"+strconv.Itoa(p.started))
	p.lock.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := everything().serve(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	before, err := server.Snapshot(t.Context())
	if err != nil {
		t.Fatal(errors.Join(err, server.Stop()))
	}
	return &lent{server, before}
}

// put takes away what the test has made. A server of a test that failed isn't lent again: it may be why.
func (p *pool) put(t *testing.T, server *lent) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*slow)
	defer cancel()
	err := server.Restore(ctx, server.before)
	if err == nil && !t.Failed() {
		p.lock.Lock()
		defer p.lock.Unlock()
		p.idle = append(p.idle, server)
		return
	}
	if err := errors.Join(err, server.Stop()); err != nil {
		t.Error(err)
	}
}

// stop ends those that are idle, which all are when no test runs.
func (p *pool) stop() error {
	p.lock.Lock()
	defer p.lock.Unlock()
	var errs []error
	for _, server := range p.idle {
		errs = append(errs, server.Stop())
	}
	return errors.Join(errs...)
}
