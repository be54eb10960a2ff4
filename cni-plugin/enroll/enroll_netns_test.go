package enroll_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/tulle-mesh/tulle/cni-plugin/enroll"
	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const patience = 30 * time.Second

var update = flag.Bool("update", false, "rewrite the golden listings")

// journal records, in their order, what the proxy is asked for, and the namespace's and the status file's state then and
// at every step that the enroller logs.
type journal struct {
	mu    sync.Mutex
	lines []string
	look  func() string
}

func (j *journal) add(what string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf("%-36s %s", what, j.look()))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n") + "\n"
}

// Handle takes the enroller's log: its steps are data.
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "step" {
			j.add(a.Value.String())
		}
		return true
	})
	return nil
}
func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

// bench is an enroller with a pod, a neighbour of the pod, and perhaps a proxy.
type bench struct {
	t       *testing.T
	pod     enroll.Pod
	ns      *netns.Namespace
	peer    *netns.Namespace
	node    *netns.Namespace
	server  *zds.Server
	socket  string
	status  string
	journal *journal
	cfg     enroll.Config
	*enroll.Enroller
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{
		t: t, ns: netns.New(t, "tulle-enroll-test"), peer: netns.New(t, "tulle-enroll-test"), node: netns.New(t, "tulle-enroll-test"),
		server: zds.NewServer(slog.New(slog.DiscardHandler)), socket: filepath.Join(dir, "ztunnel.sock"),
		status: filepath.Join(dir, "status", "node1.yaml"),
	}
	netns.Connect(b.ns, b.peer, "eth0", []netip.Prefix{netip.MustParsePrefix("10.78.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.78.0.2/24")})
	b.pod = enroll.Pod{
		Workload: zds.Workload{UID: "uid-1", Namespace: "demo", Name: "cart", ServiceAccount: "shop"}, Netns: b.ns.Netns,
		IPs: []netip.Addr{netip.MustParseAddr("10.78.0.1")},
	}
	b.journal = &journal{look: b.lookAround}
	b.cfg = enroll.Config{
		Proxies: b.server, Redirect: nft(t), Probes: b.probes(), Statuses: enroll.NewStatuses(filepath.Dir(b.status), "node1"), Log: slog.New(b.journal),
		WithdrawGrace: 50 * time.Millisecond, DrainTimeout: patience,
	}
	b.Enroller = enroll.New(b.cfg)
	if err := b.cfg.Statuses.(*enroll.Statuses).Open(); err != nil {
		t.Fatal(err)
	}
	b.serve()
	return b
}

// nft captures in the tests of this package, whose proxies have no listeners to hand over.
func nft(t testing.TB) *redirect.Engines {
	t.Helper()
	engines, err := redirect.New(redirect.Config{Engine: string(redirect.NFT), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return engines
}

// lookAround is look, and whether the node's probes pass.
func (b *bench) lookAround() string {
	probes := "-"
	if passing, err := b.cfg.Probes.Passing(); err != nil || len(passing) > 0 {
		probes = "pass"
	}
	return fmt.Sprintf("probes %-4s  %s", probes, b.look())
}

// probes are let through in the node of the bench, which has no part in anything else.
func (b *bench) probes() *redirect.Probes {
	b.t.Helper()
	probes, err := redirect.NewProbes(b.node.Netns, slog.New(slog.DiscardHandler))
	if err == nil {
		err = probes.Open()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return probes
}

func (b *bench) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.server.Serve(ctx, b.socket) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
}

// look is the state of everything that others can see.
func (b *bench) look() string {
	found, err := b.cfg.Redirect.Current(b.ns.Netns)
	if err != nil {
		return err.Error()
	}
	state := found.String()
	data, err := os.ReadFile(b.status)
	if err != nil {
		return err.Error()
	}
	_, published, _ := strings.Cut(strings.ReplaceAll(string(data), "\n", ""), "pods:")
	return fmt.Sprintf("redirection %-9s published %s", state, strings.TrimSpace(published))
}

// proxy connects one that records what it is asked for, and refuses what refuse has an answer for.
func (b *bench) proxy(refuse func(fakeproxy.Request) string) *fakeproxy.Proxy {
	b.t.Helper()
	p := fakeproxy.Connect(b.t, b.socket, func(r fakeproxy.Request) fakeproxy.Answer {
		b.journal.add("proxy: " + r.String())
		if refuse != nil {
			return fakeproxy.Answer{Refuse: refuse(r)}
		}
		return fakeproxy.Answer{}
	})
	select {
	case <-b.server.Snapshots():
	case <-time.After(patience):
		b.t.Fatal("no snapshot")
	}
	return p
}

func (b *bench) enrol() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return b.Enrol(ctx, b.pod)
}

func (b *bench) unenrol(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return b.Unenrol(ctx, b.pod)
}

func (b *bench) golden(name string) {
	b.t.Helper()
	file := filepath.Join("testdata", name+".golden")
	got := b.journal.String()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		b.t.Errorf("order differs from %s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

// mustLook checks what others can see.
func (b *bench) mustLook(want string) {
	b.t.Helper()
	if got := b.look(); strings.Join(strings.Fields(got), " ") != want {
		b.t.Errorf("see %q, want %q", got, want)
	}
}

const (
	outside = "redirection removed published {}"
	inside  = `redirection capture published "demo/cart": {uid: "uid-1", state: enabled}`
	waiting = `redirection removed published "demo/cart": {uid: "uid-1", state: pending}`
)

func TestTheOrderOfEnrollingAndUnenrolling(t *testing.T) {
	b := newBench(t)
	b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	b.journal.add("— enrolled —")
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.journal.add("— enrolled again —")
	if err := b.unenrol(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.mustLook(outside)
	b.golden("order")
}

func TestWithoutAProxyThePodIsPending(t *testing.T) {
	b := newBench(t)
	if err := b.enrol(); !errors.Is(err, zds.ErrNoProxy) {
		t.Fatalf("error is %v, want ErrNoProxy", err)
	}
	b.mustLook(waiting)
	b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	b.golden("pending")
}

func TestAProxysRefusalLeavesThePodPending(t *testing.T) {
	b := newBench(t)
	b.proxy(func(r fakeproxy.Request) string {
		return map[bool]string{true: "no listeners today"}[r.Verb == "add"]
	})
	if err := b.enrol(); err == nil || !strings.Contains(err.Error(), "no listeners today") {
		t.Fatalf("error is %v", err)
	}
	b.mustLook(waiting)
}

func TestAnEnrolledPodStaysPublishedWhileTheProxyRestarts(t *testing.T) {
	b := newBench(t)
	p := b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	p.Close()
	<-p.Done()
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	if err := b.cfg.Redirect.Set(b.ns.Netns, redirect.Desired{}); err != nil {
		t.Fatal(err)
	}
	if err := b.enrol(); !errors.Is(err, zds.ErrNoProxy) {
		t.Fatalf("error is %v, want ErrNoProxy", err)
	}
	b.mustLook(`redirection removed published "demo/cart": {uid: "uid-1", state: enabled}`) // peers' tunnels fail, and they say nothing in plain text
}

func TestAPodRefusedInASnapshotStaysPublishedUntilItIsServed(t *testing.T) {
	b := newBench(t)
	p := b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	p.Close()
	<-p.Done()
	var refusing atomic.Bool
	refusing.Store(true)
	b.proxy(func(r fakeproxy.Request) string {
		return map[bool]string{true: "no listeners yet"}[r.Verb == "add" && refusing.Load()]
	})
	for range 2 {
		if err := b.enrol(); err == nil || !strings.Contains(err.Error(), "no listeners yet") {
			t.Fatalf("error is %v", err)
		}
		b.mustLook(inside)
	}
	refusing.Store(false)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
}

func TestFailingRulesTakeThePodBackFromTheProxy(t *testing.T) {
	b := newBench(t)
	b.proxy(nil)
	loopback := func(up bool) {
		err := b.ns.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if up {
				return netlink.LinkSetUp(lo)
			}
			return netlink.LinkSetDown(lo)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	loopback(false)
	if err := b.enrol(); err == nil || !strings.Contains(err.Error(), "is lo up in the pod?") {
		t.Fatalf("error is %v", err)
	}
	b.mustLook(waiting)
	loopback(true)
	b.journal.add("— lo is up —")
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	b.golden("failing_rules")
}

// listen stands for the proxy's outbound listener, which relays, and for an app of the neighbour.
func (b *bench) listen(ns *netns.Namespace, port uint16, mark uint32, handle func(*net.TCPConn)) {
	b.t.Helper()
	listener, err := ns.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Mark: mark})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
}

// conversation opens a captured connection: the stand-in for the proxy says so.
func (b *bench) conversation() (alive func() error, end func()) {
	b.t.Helper()
	conn, err := b.ns.Dial(context.Background(), netip.MustParseAddrPort("10.78.0.2:9080"), socket.DialConfig{Timeout: patience})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	reader := bufio.NewReader(conn)
	return func() error {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintln(conn, "still here?"); err != nil {
			return err
		}
		got, err := reader.ReadString('\n')
		if err == nil && got != "still here?\n" {
			err = fmt.Errorf("got %q", got)
		}
		return err
	}, func() { conn.Close() }
}

func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

func TestUnenrollingWaitsForCapturedConnections(t *testing.T) {
	b := newBench(t)
	b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.listen(b.ns, redirect.PortOutbound, socket.Mark, echo)
	alive, end := b.conversation()
	if err := alive(); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- b.unenrol(context.Background()) }()
	b.until("redirection draining published {}")
	if err := alive(); err != nil {
		t.Fatalf("the connection died with draining: %v", err)
	}
	select {
	case err := <-result:
		t.Fatalf("un-enrolling didn't wait: %v", err)
	case <-time.After(time.Second):
	}
	if err := alive(); err != nil {
		t.Fatalf("the connection died while draining: %v", err)
	}
	end()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	b.mustLook(outside)
}

func TestConnectionsThatNeverEndAreCutAfterTheDrainTimeout(t *testing.T) {
	b := newBench(t)
	b.cfg.DrainTimeout = 300 * time.Millisecond
	b.Enroller = enroll.New(b.cfg)
	b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.listen(b.ns, redirect.PortOutbound, socket.Mark, echo)
	alive, _ := b.conversation()
	if err := alive(); err != nil {
		t.Fatal(err)
	}
	if err := b.unenrol(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.mustLook(outside)
}

func TestEnrollingAgainCallsDrainingOff(t *testing.T) {
	b := newBench(t)
	p := b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.listen(b.ns, redirect.PortOutbound, socket.Mark, echo)
	alive, _ := b.conversation()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- b.unenrol(ctx) }()
	b.until("redirection draining published {}")
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	if err := alive(); err != nil {
		t.Fatalf("the connection died: %v", err)
	}
	if slices.ContainsFunc(p.Log(), func(l string) bool { return strings.HasPrefix(l, "del") }) {
		t.Errorf("the proxy was told to leave: %q", p.Log())
	}
}

func TestARestartedAgentAdoptsWithoutWithdrawing(t *testing.T) {
	first := newBench(t)
	first.proxy(nil)
	if err := first.enrol(); err != nil {
		t.Fatal(err)
	}
	second := *first
	second.server = zds.NewServer(slog.New(slog.DiscardHandler))
	second.cfg.Proxies, second.cfg.Statuses = second.server, enroll.NewStatuses(filepath.Dir(second.status), "node1")
	second.Enroller = enroll.New(second.cfg)
	second.socket += "2"
	found, err := second.Adopt(second.pod, true)
	if err != nil || !found {
		t.Fatalf("adopted %v, %v", found, err)
	}
	second.mustLook(inside)
	if err := second.cfg.Statuses.(*enroll.Statuses).Open(); err != nil {
		t.Fatal(err)
	}
	second.mustLook(inside)
	second.serve()
	p := second.proxy(nil)
	if diff := cmp.Diff([]string{"add uid-1 demo/cart (shop)", "snapshot"}, p.Log()); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

// An agent that was started again with the other setting of DNS changes the pod without a moment in which it isn't in.
func TestCapturingDNSIsSwitchedWithoutWithdrawing(t *testing.T) {
	b := newBench(t)
	b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	for _, c := range []struct {
		dns  bool
		want string
	}{{true, `redirection capture with DNS published "demo/cart": {uid: "uid-1", state: enabled}`}, {false, inside}} {
		b.journal.lines = nil
		b.pod.How.DNS = c.dns
		b.Enroller = enroll.New(b.cfg)
		if err := b.enrol(); err != nil {
			t.Fatal(err)
		}
		b.mustLook(c.want)
		if seen := b.journal.String(); strings.Contains(seen, "pending") || strings.Contains(seen, "removed") {
			t.Errorf("on the way the pod was out:\n%s", seen)
		}
	}
}

func TestAdoptingBelievesTheNamespaceOnly(t *testing.T) {
	cases := map[string]struct {
		state  redirect.State
		wanted bool
		found  bool
		see    string
	}{
		"nothing there":         {redirect.Removed, true, false, outside},
		"captured and wanted":   {redirect.Capture, true, true, inside},
		"captured and unwanted": {redirect.Capture, false, true, "redirection capture published {}"},
		"half drained":          {redirect.Draining, true, true, "redirection draining published {}"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if err := b.cfg.Redirect.Set(b.ns.Netns, redirect.Desired{State: c.state}); err != nil {
				t.Fatal(err)
			}
			found, err := b.Adopt(b.pod, c.wanted)
			if err != nil || found != c.found {
				t.Errorf("adopted %v (%v), want %v", found, err, c.found)
			}
			if got := len(b.server.Registered()) > 0; got != c.found {
				t.Errorf("registered with the proxy: %v", got)
			}
			b.mustLook(c.see)
		})
	}
}

func TestForgettingWithdrawsAndTellsTheProxy(t *testing.T) {
	b := newBench(t)
	p := b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(context.Background(), b.pod); err != nil {
		t.Fatal(err)
	}
	b.mustLook("redirection capture published {}") // it doesn't enter the namespace, which is usually gone
	if log := p.Log(); log[len(log)-1] != "del uid-1" {
		t.Errorf("requests: %q", log)
	}
}

// A pod that is in, and of which this agent hears only now: nothing is withdrawn, and the next proxy is told of it first thing.
func TestAPodThatIsFoundLateIsAdoptedByEnrolling(t *testing.T) {
	b := newBench(t)
	if err := b.cfg.Redirect.Set(b.ns.Netns, redirect.Desired{State: redirect.Capture}); err != nil {
		t.Fatal(err)
	}
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	if log := b.journal.String(); strings.Contains(log, "pending") {
		t.Errorf("on the way it was withdrawn:\n%s", log)
	}
	p := b.proxy(nil)
	deadline := time.Now().Add(patience)
	for !slices.Contains(p.Log(), "snapshot") && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if log := p.Log(); len(log) == 0 || log[0] != "add uid-1 demo/cart (shop)" {
		t.Errorf("the proxy was asked for %q", log)
	}
}

// A pod whose namespace was lost and is found again still has its rules, but the proxy has closed its listeners there.
func TestAReturningPodIsServedBeforeItIsPublished(t *testing.T) {
	b := newBench(t)
	p := b.proxy(nil)
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(context.Background(), b.pod); err != nil {
		t.Fatal(err)
	}
	if found, err := b.Adopt(b.pod, true); err != nil || !found {
		t.Fatalf("adopted %v, %v", found, err)
	}
	b.mustLook("redirection capture published {}")
	if err := b.enrol(); err != nil {
		t.Fatal(err)
	}
	b.mustLook(inside)
	want := []string{"add uid-1 demo/cart (shop)", "del uid-1", "add uid-1 demo/cart (shop)"}
	if log := p.Log(); len(log) < 3 || !cmp.Equal(want, log[len(log)-3:]) {
		t.Errorf("requests: %q, want %q at the end", log, want)
	}
}

// until waits for what others see.
func (b *bench) until(want string) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for strings.Join(strings.Fields(b.look()), " ") != want {
		if time.Now().After(deadline) {
			b.t.Fatalf("see %q, wait for %q", b.look(), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
