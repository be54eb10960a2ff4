package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
)

// replica is one running control plane.
type replica struct {
	w     *world
	name  string
	tls   string // host:port for proxies
	debug string // host:port for people
	log   string // file
	cmd   *exec.Cmd
	ended chan struct{}
}

// replicaSpec says how to start one.
type replicaSpec struct {
	Name string // of its pod, which is how elections know it; empty means istiod
	// User is whom it reaches the API server as, and how. The default is an administrator.
	User apiserver.User
	Args []string
	Env  []string
}

// start runs a control plane until the test ends. Use ready to wait for it.
func (w *world) start(spec replicaSpec) *replica {
	w.t.Helper()
	if spec.Name == "" {
		spec.Name = "istiod"
	}
	kubeconfig, err := w.Kubeconfig(w.t.Context(), spec.User)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &replica{w: w, name: spec.Name, tls: freeAddr(w.t), debug: freeAddr(w.t), log: filepath.Join(w.dir, spec.Name+".log"), ended: make(chan struct{})}
	args := append([]string{"--kubeconfig", kubeconfig, "--tls-address", r.tls, "--debug-address", r.debug, "--drain-time", "1s"}, spec.Args...)
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	r.cmd = exec.Command(program, args...)
	r.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "POD_NAMESPACE=" + system, "POD_NAME=" + spec.Name}, spec.Env...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		r.cmd.Wait()
		close(r.ended)
	}()
	w.t.Cleanup(r.finish)
	return r
}

// finish ends the control plane in order, if it still runs, and looks through its log.
func (r *replica) finish() {
	r.stop()
	text, err := os.ReadFile(r.log)
	if err != nil {
		r.w.t.Error(err)
	}
	for _, word := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
		if at := strings.Index(string(text), word); at >= 0 {
			r.w.t.Errorf("%s: %.3000s", r.name, text[at:])
		}
	}
	if r.w.t.Failed() {
		r.w.t.Logf("the end of the log of %s:\n%s", r.name, text[max(0, len(text)-4000):])
	}
}

// stop ends it in order.
func (r *replica) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(slow):
		r.w.t.Errorf("%s doesn't end", r.name)
		r.kill()
	}
}

// kill ends it as a crash would.
func (r *replica) kill() {
	r.cmd.Process.Kill()
	<-r.ended
}

// ready waits until it serves.
func (r *replica) ready() *replica {
	r.w.t.Helper()
	r.w.eventually(r.name+" to be ready", func(ctx context.Context) error {
		if err := r.alive(); err != nil {
			r.w.t.Fatal(err)
		}
		code, body, err := r.page(ctx, "/ready")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	return r
}

func (r *replica) alive() error {
	select {
	case <-r.ended:
		return fmt.Errorf("%s ended: %s", r.name, r.cmd.ProcessState)
	default:
		return nil
	}
}

// page asks for one of the debug pages.
func (r *replica) page(ctx context.Context, path string) (int, string, error) {
	return get(ctx, "http://"+r.debug+path)
}

// logged waits for a line with all of the words.
func (r *replica) logged(words ...string) {
	r.w.t.Helper()
	r.loggedFrom(0, words...)
}

// said is how much is in the log already.
func (r *replica) said() int64 {
	r.w.t.Helper()
	info, err := os.Stat(r.log)
	if err != nil {
		r.w.t.Fatal(err)
	}
	return info.Size()
}

// loggedFrom is like logged, but for what was in the log before.
func (r *replica) loggedFrom(before int64, words ...string) {
	r.w.t.Helper()
	r.w.eventually(fmt.Sprintf("a line with %q in the log of %s", words, r.name), func(context.Context) error {
		text, err := os.ReadFile(r.log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text[before:])) {
			if containsAll(line, words) {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

func containsAll(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}
