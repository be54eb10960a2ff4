package zds_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is longer than the protocol's own deadline.
const patience = 30 * time.Second

type server struct {
	*zds.Server
	t      *testing.T
	socket string
}

// start serves until the test ends, and fails it if that doesn't end.
func start(t *testing.T) *server {
	t.Helper()
	s := &server{Server: zds.NewServer(slog.New(slog.DiscardHandler)), t: t, socket: filepath.Join(t.TempDir(), "ztunnel.sock")}
	s.serve()
	return s
}

func (s *server) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, s.socket) }()
	s.t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				s.t.Errorf("serve: %v", err)
			}
		case <-time.After(patience):
			s.t.Error("Serve doesn't end")
		}
	})
}

// connect adds a proxy and waits for its snapshot.
func (s *server) connect(answer func(fakeproxy.Request) fakeproxy.Answer) *fakeproxy.Proxy {
	s.t.Helper()
	p := fakeproxy.Connect(s.t, s.socket, answer)
	select {
	case <-s.Snapshots():
	case <-time.After(patience):
		s.t.Fatal("no snapshot was taken")
	}
	return p
}

func (s *server) add(w zds.Workload) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Add(ctx, w, namespace(s.t))
}

func (s *server) del(uid string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Del(ctx, uid)
}

// namespace opens the test's own network namespace, as good as any.
func namespace(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func workload(name string) zds.Workload {
	return zds.Workload{UID: "uid-" + name, Namespace: "demo", Name: name, ServiceAccount: "shop"}
}

func wantLog(t *testing.T, p *fakeproxy.Proxy, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, p.Log()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func ended(t *testing.T, p *fakeproxy.Proxy) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("the proxy is still connected")
	}
}

func TestASnapshotThenChanges(t *testing.T) {
	s := start(t)
	s.Register(workload("a"), namespace(t))
	p := s.connect(nil)
	if err := s.add(workload("b")); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []string{"uid-a", "uid-unknown"} {
		if err := s.del(uid); err != nil {
			t.Fatal(err)
		}
	}
	wantLog(t, p, "add uid-a demo/a (shop)", "snapshot", "add uid-b demo/b (shop)", "del uid-a", "del uid-unknown")
	p.Close()
	p = s.connect(nil)
	wantLog(t, p, "add uid-b demo/b (shop)", "snapshot")
}

func TestWithoutAProxyAPodIsRememberedForTheNext(t *testing.T) {
	s := start(t)
	if err := s.add(workload("a")); !errors.Is(err, zds.ErrNoProxy) {
		t.Fatalf("error is %v, want ErrNoProxy", err)
	}
	if err := s.del("uid-b"); err != nil {
		t.Fatalf("nobody to tell of a removal: %v", err)
	}
	wantLog(t, s.connect(nil), "add uid-a demo/a (shop)", "snapshot")
}

func TestARefusalReachesTheCallerAndKeepsTheConnection(t *testing.T) {
	s := start(t)
	p := s.connect(func(r fakeproxy.Request) fakeproxy.Answer {
		if r.UID == "uid-bad" {
			return fakeproxy.Answer{Refuse: "address in use"}
		}
		return fakeproxy.Answer{}
	})
	if err := s.add(workload("bad")); err == nil || !strings.Contains(err.Error(), "refused: address in use") {
		t.Errorf("add: error is %v", err)
	}
	if err := s.del("uid-bad"); err == nil || !strings.Contains(err.Error(), "refused: address in use") {
		t.Errorf("del: error is %v", err)
	}
	if err := s.add(workload("good")); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
	wantLog(t, p, "snapshot", "add uid-bad demo/bad (shop)", "del uid-bad", "add uid-good demo/good (shop)")
}

func TestARefusalInTheSnapshotIsRemembered(t *testing.T) {
	s := start(t)
	s.Register(workload("bad"), namespace(t))
	p := s.connect(func(r fakeproxy.Request) fakeproxy.Answer {
		return fakeproxy.Answer{Refuse: map[bool]string{true: "not now"}[r.Verb == "add"]}
	})
	wantLog(t, p, "add uid-bad demo/bad (shop)", "snapshot")
	if s.Connected() != 1 {
		t.Error("the proxy was disconnected")
	}
	if !s.Refused("uid-bad") {
		t.Error("the refusal is forgotten")
	}
	s.connect(nil)
	if s.Refused("uid-bad") {
		t.Error("still refused, but a newer proxy serves it")
	}
}

func TestTwoGenerations(t *testing.T) {
	s := start(t)
	old := s.connect(nil)
	if err := s.add(workload("a")); err != nil {
		t.Fatal(err)
	}
	young := s.connect(nil)
	if err := s.add(workload("b")); err != nil {
		t.Fatal(err)
	}
	if err := s.del("uid-a"); err != nil {
		t.Fatal(err)
	}
	young.Close()
	ended(t, young)
	if err := s.add(workload("c")); err != nil {
		t.Fatalf("with the older proxy only: %v", err)
	}
	wantLog(t, young, "add uid-a demo/a (shop)", "snapshot", "add uid-b demo/b (shop)", "del uid-a")
	wantLog(t, old, "snapshot", "add uid-a demo/a (shop)", "del uid-a", "add uid-c demo/c (shop)")
}

func TestWhenTheNewestFailsInTheMiddleThePreviousIsAsked(t *testing.T) {
	for name, failure := range map[string]fakeproxy.Answer{
		"disconnects":       {Disconnect: true},
		"stays silent":      {Silent: true},
		"answers garbage":   {Raw: []byte{0xff, 0xff}},
		"answers a request": {Raw: []byte{0x2a, 0x00}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			old := s.connect(nil)
			young := s.connect(func(r fakeproxy.Request) fakeproxy.Answer {
				if r.Verb == "add" {
					return failure
				}
				return fakeproxy.Answer{}
			})
			result := make(chan error, 1)
			go func() { result <- s.add(workload("a")) }()
			if len(s.Registered()) > 1 || s.Connected() > 2 { // neither waits for the proxy
				t.Error("impossible")
			}
			if err := <-result; err != nil {
				t.Fatal(err)
			}
			ended(t, young)
			wantLog(t, old, "snapshot", "add uid-a demo/a (shop)")
			old.Close()
			ended(t, old)
			if err := s.add(workload("b")); !errors.Is(err, zds.ErrNoProxy) {
				t.Errorf("with no proxy left: %v", err)
			}
		})
	}
}

func TestADisconnectedProxyIsNoticedWithoutAsking(t *testing.T) {
	s := start(t)
	p := s.connect(nil)
	p.Close()
	deadline := time.Now().Add(patience)
	for s.Connected() > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the connection is still counted")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAnAddDuringASlowSnapshotComesAfterIt(t *testing.T) {
	s := start(t)
	s.Register(workload("a"), namespace(t))
	begun, goOn := make(chan struct{}), make(chan struct{})
	p := fakeproxy.Connect(t, s.socket, func(r fakeproxy.Request) fakeproxy.Answer {
		if r.UID == "uid-a" {
			close(begun)
			<-goOn
		}
		return fakeproxy.Answer{}
	})
	<-begun
	result := make(chan error, 1)
	go func() { result <- s.add(workload("b")) }()
	for len(s.Registered()) < 2 {
		time.Sleep(time.Millisecond) // until the other goroutine has come so far
	}
	close(goOn)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	wantLog(t, p, "add uid-a demo/a (shop)", "snapshot", "add uid-b demo/b (shop)")
}

func TestACallersDeadlineHoldsWithABusyProxy(t *testing.T) {
	s := start(t)
	release := make(chan struct{})
	s.connect(func(r fakeproxy.Request) fakeproxy.Answer {
		if r.Verb == "add" {
			<-release
		}
		return fakeproxy.Answer{}
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Add(ctx, workload("a"), namespace(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestWhoBreaksTheProtocolIsDisconnected(t *testing.T) {
	s := start(t)
	for name, packets := range map[string][][]byte{
		"hello of no version":      {{}},
		"hello of another version": {{0x08, 0x07}},
		"garbage":                  {{0xff, 0xff}},
		"more than a packet":       {make([]byte, 4096)},
		"a packet nobody asked for": {
			{0x08, 0x01}, {0x0a, 0x00}, {0x0a, 0x00}, // hello, the answer to the snapshot, and one too many
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := fakeproxy.Dial(t, s.socket, nil)
			for i, packet := range packets {
				if i == 1 && p.Closed() { // waits for the snapshot
					t.Fatal("disconnected before it broke the protocol")
				}
				if len(packet) > 0 {
					p.Send(packet)
				} else {
					p.Send([]byte{0x10, 0x00}) // a field of no meaning
				}
			}
			if !p.Closed() {
				t.Error("still connected")
			}
		})
	}
}

func TestManyPodsComeAndGoAtOnce(t *testing.T) {
	s := start(t)
	p := s.connect(nil)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			w := workload(strings.Repeat("x", i+1))
			if err := s.add(w); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := s.del(w.UID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := len(p.Log()); got != 1+50+25 {
		t.Errorf("%d requests", got)
	}
	next := s.connect(nil)
	log := next.Log()
	if len(log) != 26 || log[25] != "snapshot" || slices.ContainsFunc(log[:25], func(l string) bool { return !strings.HasPrefix(l, "add ") }) {
		t.Errorf("snapshot of 25 pods: %q", log)
	}
}

func TestConnectionsAreAcceptedSlowly(t *testing.T) {
	s := start(t)
	began := time.Now()
	for range 4 {
		s.connect(nil)
	}
	if took := time.Since(began); took < 3*200*time.Millisecond {
		t.Errorf("four connections were accepted in %s", took)
	}
}

func TestTheSocketIsRootsAndOfOneAgent(t *testing.T) {
	s := start(t)
	s.connect(nil)
	info, err := os.Stat(s.socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	err = zds.NewServer(slog.New(slog.DiscardHandler)).Serve(context.Background(), s.socket)
	if err == nil || !strings.Contains(err.Error(), "another process answers there") {
		t.Errorf("a second agent: error is %v", err)
	}
}

func TestADeadAgentsSocketIsReplaced(t *testing.T) {
	s := &server{Server: zds.NewServer(slog.New(slog.DiscardHandler)), t: t, socket: filepath.Join(t.TempDir(), "new", "ztunnel.sock")}
	if err := os.Mkdir(filepath.Dir(s.socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.serve()
	s.connect(nil)
}
