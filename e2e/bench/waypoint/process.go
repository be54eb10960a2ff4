package main

import (
	"context"
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
	"unsafe"
)

// What is measured has a core of its own, so that what one process costs doesn't depend on where the other is.
const (
	measuredCore = 0
	otherCore    = 1
)

// process is a program in a pod.
type process struct {
	io.ReadCloser  // its standard output, unless that is its log
	io.WriteCloser // its standard input
	cmd            *exec.Cmd
	log            string
	ended          chan struct{}
}

// Close implements io.Closer for net/rpc.
func (p *process) Close() error { return errors.Join(p.WriteCloser.Close(), p.ReadCloser.Close()) }

// start runs a program in a pod on a core. Its standard output is for us if it is a party's, and its log otherwise.
func (s *site) start(pod, name string, core int, binary string, env []string, args ...string) (*process, error) {
	netns, err := s.cluster.Netns(pod)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(binary, args...), log: filepath.Join(s.dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches the benchmark alone, which then ends things in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.WriteCloser, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if pod == name {
		p.cmd.Stdout = nil
		if p.ReadCloser, err = p.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
	}
	err = netns.Do(func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer pin(allowed())
		pin(1 << (core % runtime.NumCPU()))
		return p.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	go func() {
		_, _ = p.cmd.Process.Wait() // Wait of cmd would close what is still being read
		close(p.ended)
	}()
	return p, nil
}

// allowed is the cores that this thread may use, as bits; there are at most 64 of interest.
func allowed() (mask uint64) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	return mask
}

// pin says which cores this thread, and what it starts, may use.
func pin(mask uint64) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
}

// alive is nil, or an error with the end of its log.
func (p *process) alive() error {
	select {
	case <-p.ended:
		text, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended; the end of its log:\n%s", filepath.Base(p.cmd.Path), text[max(0, len(text)-2000):])
	default:
		return nil
	}
}

// stop ends the process, by force if need be. A process that wasn't started needs nothing.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// usage is CPU time.
type usage struct{ user, system time.Duration }

// usage returns what the process has used so far.
func (p *process) usage() (usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return usage{}, errors.Join(err, p.alive())
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const user, system, tick = 11, 12, 10 * time.Millisecond // the unit is the same on every machine
	u, _ := strconv.Atoi(fields[user])
	k, _ := strconv.Atoi(fields[system])
	return usage{time.Duration(u) * tick, time.Duration(k) * tick}, nil
}

// resident is the memory that the process has, in MB, and how much of it is its own.
func (p *process) resident() (rss, anonymous float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, errors.Join(err, p.alive())
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		switch name {
		case "Rss":
			rss = n * 1024 / 1e6
		case "Anonymous":
			anonymous = n * 1024 / 1e6
		}
	}
	return rss, anonymous, nil
}

// get asks for a page inside a pod.
func (s *site) get(ctx context.Context, pod, url string) ([]byte, error) {
	netns, err := s.cluster.Netns(pod)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = errors.Join(netns.Do(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		}))
		return conn, err
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return text, err
}
