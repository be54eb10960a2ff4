package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// control is a running istiod-lite.
type control struct {
	cmd        *exec.Cmd
	log        string
	tls, debug string // host:port
	began      time.Time
	ended      chan struct{}
}

func (b *bench) startControl(ctx context.Context) (*control, error) {
	kubeconfig, err := b.server.Kubeconfig(ctx, apiserver.User{})
	if err != nil {
		return nil, err
	}
	c := &control{log: filepath.Join(b.dir, "istiod-lite.log"), ended: make(chan struct{})}
	for _, addr := range []*string{&c.tls, &c.debug} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		*addr = listener.Addr().String()
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.cmd = exec.Command(b.binary, append([]string{"--kubeconfig", kubeconfig, "--tls-address", c.tls, "--debug-address", c.debug}, b.args...)...)
	c.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "POD_NAMESPACE=" + system, "POD_NAME=istiod"}, b.env...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return c, c.launch()
}

// launch starts the program on a thread that lives as long as the program, which Pdeathsig wants.
func (c *control) launch() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		c.began = time.Now()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.cmd.Wait()
			close(c.ended)
		}
	}()
	return <-started
}

func (c *control) stop() {
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(15 * time.Second):
		c.cmd.Process.Kill()
		<-c.ended
	}
}

func (c *control) alive() error {
	select {
	case <-c.ended:
		text, _ := os.ReadFile(c.log)
		return fmt.Errorf("istiod-lite ended (%s); the end of its log:\n%s", c.cmd.ProcessState, text[max(0, len(text)-3000):])
	default:
		return nil
	}
}

// ready waits until it serves.
func (c *control) ready(ctx context.Context) error {
	return c.until(ctx, func() error {
		code, body, err := c.page(ctx, "/ready")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("/ready: %d %s", code, body)
		}
		return err
	})
}

func (c *control) until(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if err := c.alive(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *control) page(ctx context.Context, path string) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.debug+path, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// roots are what proxies trust; they stay the same over restarts.
func (b *bench) roots(ctx context.Context) (*x509.CertPool, error) {
	secret, err := b.server.Client().CoreV1().Secrets(system).Get(ctx, "istio-ca-secret", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("roots of the control plane: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(secret.Data["ca-cert.pem"]) {
		return nil, errors.New("no certificate in the secret istio-ca-secret")
	}
	return pool, nil
}

func (b *bench) dial(c *control) (*grpc.ClientConn, error) {
	return delta.Dial(c.tls, "istiod."+system+".svc", b.pool, grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second}))
}

// spent is the CPU time of the program so far.
func (c *control) spent() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	const utime, stime = 11, 12
	return sum(statFields(text), utime, stime), nil
}

// memory is what a process holds, in bytes.
type memory struct{ resident, anonymous float64 }

func (c *control) memory() (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.cmd.Process.Pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		switch name {
		case "Rss":
			m.resident = n * 1024
		case "Anonymous":
			m.anonymous = n * 1024
		}
	}
	return m, nil
}

// heap is what is live after a garbage collection, in bytes.
func (c *control) heap(ctx context.Context) (float64, error) {
	_, body, err := c.page(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, errors.New("/debug/pprof/heap doesn't say what HeapAlloc is")
}

// profile takes a profile into a file, where that is wished for.
func (b *bench) profile(ctx context.Context, c *control, name, path string) error {
	if b.profiles == "" {
		return nil
	}
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	_, body, err := c.page(ctx, path)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.profiles, fmt.Sprintf("%s-%d.pprof", name, b.size.pods)), body, 0o644)
}
