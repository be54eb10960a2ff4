package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// stormVariable has a test's binary play one process of a storm: the addresses that it calls.
const stormVariable = "TULLE_SOAK_STORM"

const (
	stormProcesses = 4
	stormAttempts  = 12_500 // of each
	stormAtOnce    = 2_500  // of each
	stormPatience  = 300 * time.Millisecond
	stormHold      = time.Second
)

func TestMain(m *testing.M) {
	if to := os.Getenv(stormVariable); to != "" {
		attempted, connected := storm(strings.Split(to, ","))
		fmt.Printf("%d attempts, %d connected\n", attempted, connected)
		return
	}
	os.Exit(m.Run())
}

// storm calls addresses in turn and says nothing; each connection is reset after a while, so that ports don't run out.
func storm(to []string) (attempted, connected int) {
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range stormAtOnce {
		workers.Go(func() {
			for {
				mu.Lock()
				n := attempted
				if n == stormAttempts {
					mu.Unlock()
					return
				}
				attempted++
				mu.Unlock()
				conn, err := net.DialTimeout("tcp", to[n%len(to)], stormPatience)
				if err != nil {
					continue
				}
				mu.Lock()
				connected++
				mu.Unlock()
				<-time.After(stormHold)
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
		})
	}
	workers.Wait()
	return attempted, connected
}

// startStorm runs one process of a storm in a pod, or wherever else.
func startStorm(t *testing.T, s *soak, place string, to ...netip.AddrPort) (wait func()) {
	t.Helper()
	netns, err := s.cluster.Netns(place)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, addr := range to {
		names = append(names, addr.String())
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), stormVariable+"="+strings.Join(names, ","))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := netns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := cmd.Wait(); err != nil {
			t.Errorf("a process of the storm: %v", err)
		}
		t.Logf("from %s: %s", place, strings.TrimSpace(out.String()))
	}
}

// bed is a cluster for one test.
func bed(t *testing.T, env ...string) *soak {
	t.Helper()
	s := &soak{options: options{dir: filepath.Join(t.TempDir(), "soak"), env: env, say: func(line string) { t.Log(line) }}, first: map[string]usage{}, last: map[string]usage{}}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // on a fresh machine the programs are built first
	defer cancel()
	t.Cleanup(func() {
		if err := s.down(); err != nil {
			t.Error(err)
		}
	})
	if err := s.up(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// request makes one connection that has to succeed.
func (s *soak) request(to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := s.counted.dial(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	_, err = useShort(conn, rand.New(rand.NewPCG(1, 1)), nil)
	return err
}

// memory doesn't scrape metrics: scraped four times a second, a ztunnel is never at rest, and returns nothing.
func memory(t *testing.T, s *soak, node string) uint64 {
	t.Helper()
	p, err := s.cluster.Process(demo.Ztunnel(node))
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := p.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// 50,000 attempts from four processes, on all of a ztunnel's ports, in the middle of which it gets no processor at all, so that its
// queues fill up; and little memory. It survives, serves again within seconds, and gives its memory back.
func TestStormOfConnectionAttempts(t *testing.T) {
	s := bed(t, "GOMEMLIMIT=64MiB")
	ctx := t.Context()
	service := netip.AddrPortFrom(s.cluster.VIPs(far)[0], 80)
	if err := s.request(service); err != nil {
		t.Fatal(err)
	}
	before := memory(t, s, "node2")
	process, err := s.cluster.Process(demo.Ztunnel("node2"))
	if err != nil {
		t.Fatal(err)
	}
	held, err := s.counted.dial(ctx, service) // one that lives through it
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := begin(held, echoed); err != nil {
		t.Fatal(err)
	}
	addrs := s.cluster.PodAddrs(far)
	outside := []netip.AddrPort{netip.AddrPortFrom(addrs[0], 15008), netip.AddrPortFrom(addrs[0], port), netip.AddrPortFrom(addrs[1], 15008), netip.AddrPortFrom(addrs[1], port)}
	var waits []func()
	for range stormProcesses / 2 {
		waits = append(waits, startStorm(t, s, "fabric", outside...), startStorm(t, s, guest, service, netip.AddrPortFrom(addrs[0], port), netip.AddrPortFrom(addrs[1], port)))
	}
	<-time.After(2 * time.Second)
	if err := unix.Kill(process.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(3 * time.Second)
	if err := unix.Kill(process.Pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, wait := range waits {
		wait()
	}
	ended := time.Now()
	if err := demo.AwaitWithin(ctx, 10*time.Second, "a new connection to be served", func(context.Context) error { return s.request(service) }); err != nil {
		t.Error(err)
	}
	t.Logf("served again %v after the storm; %.1f MB", time.Since(ended).Round(time.Millisecond), float64(memory(t, s, "node2"))/1e6)
	_ = held.SetDeadline(time.Now().Add(patience))
	if err := exchange(held, []byte("still there")); err != nil {
		t.Errorf("a connection that was there before: %v", err)
	}
	for _, node := range []string{"node1", "node2"} {
		err := demo.AwaitWithin(ctx, 40*time.Second, "the memory of "+node+" to go back", func(context.Context) error {
			if now := memory(t, s, node); float64(now) > 1.35*float64(before)+memoryFloor {
				return fmt.Errorf("it has %.1f MB, before the storm %.1f MB", float64(now)/1e6, float64(before)/1e6)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("before the storm %.1f MB, %v after it %.1f MB", float64(before)/1e6, time.Since(ended).Round(time.Second), float64(memory(t, s, "node2"))/1e6)
}

// A ztunnel that may open no more files keeps what it has, says what to do, and goes on when there is room again.
func TestNoMoreFiles(t *testing.T) {
	s := bed(t)
	ctx := t.Context()
	service := netip.AddrPortFrom(s.cluster.VIPs(far)[0], 80)
	held, err := s.counted.dial(ctx, service)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := errors.Join(begin(held, echoed), exchange(held, []byte("hello"))); err != nil {
		t.Fatal(err)
	}
	process, err := s.cluster.Process(demo.Ztunnel("node1"))
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(process.Pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: uint64(len(open)) + 60, Max: uint64(len(open)) + 60}
	if err := unix.Prlimit(process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	var conns []*net.TCPConn
	for range 200 {
		if conn, err := s.counted.dial(ctx, service); err == nil {
			_ = begin(conn, echoed)
			conns = append(conns, conn)
		}
	}
	err = demo.AwaitWithin(ctx, patience, "the log to tell what to do", func(context.Context) error {
		if lines, err := s.cluster.LogLines(demo.Ztunnel("node1"), "connections have to wait", "LimitNOFILE"); err != nil || len(lines) == 0 {
			return fmt.Errorf("no such line: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	_ = held.SetDeadline(time.Now().Add(patience))
	if err := exchange(held, []byte("still there")); err != nil {
		t.Errorf("a connection that was there before: %v", err)
	}
	served := 0
	for _, conn := range conns {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Millisecond))
		if exchange(conn, []byte("x")) == nil {
			served++
		}
	}
	for _, conn := range conns {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
	if served == 0 || served == len(conns) {
		t.Errorf("%d of %d connections were served, want as many as there is room for", served, len(conns))
	}
	began := time.Now()
	if err := demo.AwaitWithin(ctx, 10*time.Second, "new connections to be served", func(context.Context) error { return s.request(service) }); err != nil {
		t.Error(err)
	}
	lines, _ := s.cluster.LogLines(demo.Ztunnel("node1"), "connections have to wait")
	t.Logf("%d of %d connections were served; served again after %v; %d lines in the log", served, len(conns), time.Since(began).Round(time.Millisecond), len(lines))
	if len(lines) > 20 {
		t.Errorf("the log tells of it %d times", len(lines))
	}
}
