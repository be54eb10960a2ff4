package xds_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeistiod"
	"github.com/tulle-mesh/tulle/mesh/xds"
)

// asker is a client that asks for addresses by name, and what it was told.
type asker struct {
	*holder
	*xds.Client
	t *testing.T

	mu      sync.Mutex
	gone    []string
	changed chan struct{}
}

func newAsker(t *testing.T, server *fakeistiod.Server) *asker {
	t.Helper()
	conn, err := controlplane.Dial(controlplane.Config{Address: server.Address(), RootCA: server.RootFile()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a := &asker{holder: new(holder), t: t, changed: make(chan struct{}, 1000)}
	a.Client = xds.NewClient(conn, xds.Config{
		Node:  &corev3.Node{Id: "ztunnel~10.0.0.1~z.istio-system~istio-system.svc.cluster.local"},
		Types: []string{policies, addresses}, ByName: []string{addresses}, Handle: a.take, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; conn.Close() })
	<-a.Ready()
	return a
}

func (a *asker) take(p xds.Push) map[string]error {
	a.mu.Lock()
	a.gone = append(a.gone, p.Removed...)
	a.mu.Unlock()
	refused := a.handle(p)
	a.changed <- struct{}{}
	return refused
}

// expect waits until the client holds exactly those names.
func (a *asker) expect(names string) {
	a.t.Helper()
	timeout := time.After(10 * time.Second)
	for a.names() != names {
		select {
		case <-a.changed:
		case <-timeout:
			a.t.Fatalf("client has %q, want %q", a.names(), names)
		}
	}
}

// expectGone waits until it was told so often that there is no such thing.
func (a *asker) expectGone(name string, times int) {
	a.t.Helper()
	timeout := time.After(10 * time.Second)
	count := func() (n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, gone := range a.gone {
			if gone == name {
				n++
			}
		}
		return n
	}
	for count() < times {
		select {
		case <-a.changed:
		case <-timeout:
			a.t.Fatalf("told %d times that %s is gone, want %d", count(), name, times)
		}
	}
}

func at(uid, address string, services ...string) *workload.Workload {
	w := pod(uid)
	w.Addresses = [][]byte{[]byte(address)}
	w.Services = map[string]*workload.PortList{}
	for _, s := range services {
		w.Services[s] = &workload.PortList{}
	}
	return w
}

func TestOnlyWhatIsAskedForComes(t *testing.T) {
	server := fakeistiod.New(t, nil)
	server.Set(at("a", "\x0a\x00\x00\x01"), at("b", "\x0a\x00\x00\x02", "shop/web"), at("c", "\x0a\x00\x00\x03", "shop/web"), policy("p"),
		&workload.Service{Namespace: "shop", Hostname: "web"})
	client := newAsker(t, server)
	client.expect("shop/p")
	client.Ask(addresses, "/10.0.0.1")
	client.expect("a shop/p")
	client.Ask(addresses, "shop/web", "nobody")
	client.expect("a b c shop/p shop/web")
	client.expectGone("nobody", 1)
	server.Set(at("d", "\x0a\x00\x00\x04", "shop/web"), at("e", "\x0a\x00\x00\x05"))
	client.expect("a b c d shop/p shop/web")
}

func TestNameThatIsAskedForAgainIsAnsweredAgain(t *testing.T) {
	server := fakeistiod.New(t, nil)
	client := newAsker(t, server)
	for n := range 5 {
		client.Ask(addresses, "/10.0.0.1")
		client.expectGone("/10.0.0.1", n+1)
	}
}

func TestWhatIsForgottenNoLongerComes(t *testing.T) {
	server := fakeistiod.New(t, nil)
	server.Set(at("a", "\x0a\x00\x00\x01"))
	client := newAsker(t, server)
	client.Ask(addresses, "/10.0.0.1", "b")
	client.expect("a")
	client.Forget(addresses, "/10.0.0.1", "a", "b")
	client.Ask(addresses, "c")
	client.expectGone("c", 1) // so the server has heard of it
	server.Set(pod("b"), pod("c"))
	client.expect("a c")
	server.Restart()
	synced(t, server)
	opened := server.Opened()
	if got := opened[len(opened)-1].Names; !slices.Equal(got, []string{"c", "*"}) {
		t.Errorf("the next stream asks for %q", got)
	}
}

// What went while there was no stream is told, what came along is kept up to date, and what was asked meanwhile answered.
func TestAskedNamesSurviveReconnects(t *testing.T) {
	server := fakeistiod.New(t, nil)
	server.Set(at("a", "\x0a\x00\x00\x01"), at("b", "\x0a\x00\x00\x02", "shop/web"), &workload.Service{Namespace: "shop", Hostname: "web"})
	client := newAsker(t, server)
	client.Ask(addresses, "/10.0.0.1", "shop/web")
	client.expect("a b shop/web")
	server.Stop()
	server.Remove(addresses, "b")
	server.Set(at("c", "\x0a\x00\x00\x03", "shop/web"))
	client.Ask(addresses, "/10.0.0.9", "/10.0.0.1")
	server.Restart()
	client.expect("a c shop/web")
	client.expectGone("/10.0.0.9", 1)
}

// Every question is answered though streams break all the time.
func TestQuestionsWhileStreamsBreak(t *testing.T) {
	server := fakeistiod.New(t, nil)
	client := newAsker(t, server)
	want := ""
	for round := range 5 {
		var group sync.WaitGroup
		for n := range 10 {
			name := fmt.Sprintf("pod-%d%d", round, n)
			server.Set(pod(name))
			want += " " + name
			group.Go(func() { client.Ask(addresses, name) })
		}
		group.Go(server.Restart)
		group.Wait()
	}
	client.expect(want[1:])
}
