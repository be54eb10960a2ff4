package xds_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/controlplane"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeistiod"
	"github.com/tulle-mesh/tulle/mesh/xds"
)

const (
	addresses = "type.googleapis.com/istio.workload.Address"
	policies  = "type.googleapis.com/istio.security.Authorization"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// holder keeps what a client was pushed and refuses what it is told to.
type holder struct {
	mu     sync.Mutex
	has    map[string]bool // of all types
	refuse map[string]error
	pushes []string // types in the order they came
	events []xds.Event
}

func (h *holder) handle(p xds.Push) map[string]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.has == nil {
		h.has = map[string]bool{}
	}
	h.pushes = append(h.pushes, p.TypeURL)
	refused := map[string]error{}
	for _, name := range p.Removed {
		delete(h.has, name)
	}
	for r := range p.Resources {
		if err := h.refuse[r.Name]; err != nil {
			refused[r.Name] = err
			continue
		}
		h.has[r.Name] = true
	}
	return refused
}

func (h *holder) event(e xds.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *holder) names() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(h.has)), " ")
}

func (h *holder) refuseNow(errs map[string]error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = errs
}

func pod(uid string) *workload.Workload { return &workload.Workload{Uid: uid} }

func policy(name string) *security.Authorization {
	return &security.Authorization{Namespace: "shop", Name: name}
}

// start runs a client of the server until the test ends.
func start(t *testing.T, server *fakeistiod.Server, h *holder) *xds.Client {
	t.Helper()
	conn, err := controlplane.Dial(controlplane.Config{Address: server.Address(), RootCA: server.RootFile()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client, stop := run(t, conn, h, policies, addresses)
	t.Cleanup(func() {
		stop()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func run(t *testing.T, conn grpc.ClientConnInterface, h *holder, types ...string) (client *xds.Client, stop func()) {
	client = xds.NewClient(conn, xds.Config{
		Node:  &corev3.Node{Id: "ztunnel~10.0.0.1~z.istio-system~istio-system.svc.cluster.local"},
		Types: types, Handle: h.handle, Event: h.event, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- client.Run(ctx) }()
	return client, func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v, want its context's error", err)
		}
	}
}

func synced(t *testing.T, server *fakeistiod.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := server.Sync(ctx, 1); err != nil {
		t.Fatal(err)
	}
}

func TestEveryTypeIsSubscribedInOrderAndThenReady(t *testing.T) {
	server := fakeistiod.New(t, nil)
	h := new(holder)
	client := start(t, server, h)
	<-client.Ready() // though there is nothing to push
	synced(t, server)
	opened := server.Opened()
	if len(opened) != 1 || !slices.Equal(opened[0].Types, []string{policies, addresses}) {
		t.Fatalf("streams = %v, want one with policies before addresses", opened)
	}
	if server.Acks(policies) != 1 || server.Acks(addresses) != 1 {
		t.Errorf("%d and %d acknowledgements, want one each", server.Acks(policies), server.Acks(addresses))
	}
	server.Set(pod("a"), pod("b"), policy("deny"))
	synced(t, server)
	if got, want := h.names(), "a b shop/deny"; got != want {
		t.Errorf("client has %q, want %q", got, want)
	}
	server.Remove(addresses, "a")
	synced(t, server)
	if got, want := h.names(), "b shop/deny"; got != want {
		t.Errorf("client has %q after a removal, want %q", got, want)
	}
}

func TestBadResourcesAreRefusedByNameAndGoodOnesKept(t *testing.T) {
	server := fakeistiod.New(t, nil)
	h := &holder{refuse: map[string]error{"bad1": errors.New("no such protocol"), "bad2": errors.New("no address")}}
	server.Set(pod("bad1"), pod("bad2"), pod("good"))
	<-start(t, server, h).Ready()
	synced(t, server)
	want := "refused 2 of 3 resources: bad1: no such protocol; bad2: no address"
	if nacks := server.Nacks(addresses); len(nacks) != 1 || nacks[0] != want {
		t.Errorf("refusals = %q, want %q", nacks, want)
	}
	if got := h.names(); got != "good" {
		t.Errorf("client has %q, want the good one", got)
	}
	server.Set(pod("better"))
	synced(t, server)
	if len(server.Nacks(addresses)) != 1 || h.names() != "better good" {
		t.Errorf("after a good push: refusals %q, client has %q", server.Nacks(addresses), h.names())
	}
}

func TestReconnectAsksOnlyForWhatChanged(t *testing.T) {
	server := fakeistiod.New(t, nil)
	h := &holder{refuse: map[string]error{"bad": errors.New("not yet")}}
	server.Set(pod("same"), pod("bad"), pod("gone"), policy("p"))
	<-start(t, server, h).Ready()
	synced(t, server)

	server.Stop()
	server.Remove(addresses, "gone", "bad")
	server.Set(pod("new"))
	server.Restart()
	synced(t, server)
	if got, want := h.names(), "new same shop/p"; got != want {
		t.Errorf("client has %q after the restart, want %q", got, want)
	}
	opened := server.Opened()
	again := opened[len(opened)-1]
	for _, name := range []string{"same", "gone"} {
		if again.Versions[addresses][name] == "" {
			t.Errorf("%s is not among the versions %v of the new stream", name, again.Versions)
		}
	}
	if version := again.Versions[addresses]["bad"]; version != "" {
		t.Errorf("the refused resource has version %q in the new stream, want none", version)
	}
	if again.Versions[policies]["shop/p"] == "" || again.Node.GetId() == "" {
		t.Errorf("new stream = %+v, want policies and a node", again)
	}
}

func TestRefusedResourceComesAgainAfterReconnect(t *testing.T) {
	server := fakeistiod.New(t, nil)
	h := &holder{refuse: map[string]error{"bad": errors.New("not yet")}}
	server.Set(pod("bad"))
	<-start(t, server, h).Ready()
	synced(t, server)
	h.refuseNow(nil)
	server.Restart()
	synced(t, server)
	if got := h.names(); got != "bad" {
		t.Errorf("client has %q, want the resource that it takes now", got)
	}
}

func TestAddAbortRemove(t *testing.T) {
	server := fakeistiod.New(t, nil)
	h := new(holder)
	<-start(t, server, h).Ready()
	for i := range 5 {
		server.Set(pod(fmt.Sprint("pod-", i)))
		server.Stop()
		server.Remove(addresses, fmt.Sprint("pod-", i))
		server.Restart()
		synced(t, server)
		if got := h.names(); got != "" {
			t.Fatalf("client has %q after round %d, want nothing", got, i)
		}
	}
}

func TestEventsTellMessagesAndEnds(t *testing.T) {
	server := fakeistiod.New(t, nil)
	h := new(holder)
	server.Set(pod("a"))
	<-start(t, server, h).Ready()
	synced(t, server)
	server.Restart()
	synced(t, server)
	h.mu.Lock()
	defer h.mu.Unlock()
	var text []string
	for _, e := range h.events {
		if e.Kind == xds.Pushed && e.Bytes == 0 || e.Kind != xds.Pushed && e.Err == nil {
			t.Errorf("event %+v lacks its size or error", e)
		}
		text = append(text, strings.TrimPrefix(e.TypeURL, "type.googleapis.com/istio."))
	}
	want := []string{"security.Authorization", "workload.Address", "", "security.Authorization", "workload.Address"}
	if !slices.Equal(text, want) {
		t.Errorf("events = %q, want %q", text, want)
	}
}

// A control plane that dies again and again, in the middle of what it sends.
func TestLargePushThatBreaksOffComesAgain(t *testing.T) {
	server := fakeistiod.New(t, nil)
	h := new(holder)
	server.Set(fakeistiod.World(5_000)...)
	client := start(t, server, h)
	for range 5 {
		server.Restart()
	}
	<-client.Ready()
	synced(t, server)
	for i := range 5 {
		server.Remove(addresses, fakeistiod.WorldPod(i).GetUid())
		server.Restart()
	}
	synced(t, server)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range 5_000 {
		if name := fakeistiod.WorldPod(i).GetUid(); h.has[name] != (i >= 5) {
			t.Fatalf("client has %s: %v", name, h.has[name])
		}
	}
}
