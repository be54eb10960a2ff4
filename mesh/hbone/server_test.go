package hbone

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/trace"
)

// newForeigner makes a credential that trusts the bed's server but is of another authority.
func newForeigner(t *testing.T, b *bed) *mtls.Credential {
	t.Helper()
	other := testca.New(t, "cluster.local")
	credential := *other.Credential(b.client.Identity)
	credential.Roots = b.client.Roots
	return &credential
}

func TestServerSeesTheRequest(t *testing.T) {
	b := newBed(t)
	want := Request{
		Authority: AuthorityFromAddr(netip.MustParseAddrPort("[fd00::1]:443")),
		Baggage: Baggage{Cluster: "c", Namespace: "shop", WorkloadType: "deployment", WorkloadName: "w", Service: "s", Revision: "v1",
			Region: "r", Zone: "z"},
		Forwarded: Forwarded{For: netip.MustParseAddrPort("10.1.2.3:4567"), Host: "cart.shop.svc.cluster.local"},
		Trace:     trace.New(),
		Network:   "east",
	}
	seen := make(chan *Incoming, 1)
	b.onConnect(func(in *Incoming) {
		seen <- in
		in.Refuse(503)
	})
	_, _ = connect(b.pool, b.target(), want)
	in := <-seen
	if in.Request != want {
		t.Errorf("request %+v, want %+v", in.Request, want)
	}
	if in.Peer != b.client.Identity || in.Local != b.target().Addr || !in.Remote.Addr().IsLoopback() {
		t.Errorf("peer %v, local %v, remote %v", in.Peer, in.Local, in.Remote)
	}
}

func TestShutdownOfTheServer(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	exchange(t, e)
	ended := make(chan struct{})
	b.onFar(func() { b.srv.Shutdown(func() { close(ended) }) })
	// The client hears of it: its tunnel takes no more streams.
	client := clientTunnel(b)
	eventually(t, "GOAWAY", func() (draining bool) {
		b.onNear(func() { draining = client.draining })
		return draining
	})
	if _, err := connect(b.pool, b.target(), b.request()); err == nil {
		t.Error("a server that shuts down took a connection")
	}
	exchange(t, e)
	_ = e.near.CloseWrite()
	_ = e.far.CloseWrite()
	if r := result(t, e.farEnd); r.Err != nil {
		t.Errorf("result %+v", r)
	}
	<-ended
	eventually(t, "the client's tunnel to go", func() (gone bool) {
		b.onNear(func() { gone = client.gone })
		return gone
	})
	if len(b.srv.tunnels) != 0 {
		t.Error("the server keeps a tunnel")
	}
}

// clientTunnel returns the first tunnel that the pool has.
func clientTunnel(b *bed) (first *tunnel) {
	b.onNear(func() {
		for _, sh := range b.pool.shared {
			first = sh.tunnels[0]
		}
	})
	if first == nil {
		b.tb.Fatal("the pool has no tunnel")
	}
	return first
}

func TestCloseCutsWhatShutdownLeft(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	exchange(t, e)
	idle := make(chan struct{})
	b.onFar(func() { b.srv.Shutdown(func() { close(idle) }) })
	select {
	case <-idle:
		t.Error("the server is idle while a connection runs")
	default:
	}
	b.onFar(b.srv.Close)
	defer func() { <-idle }()
	if near, far := result(t, e.nearEnd), result(t, e.farEnd); near.Err == nil || !errors.Is(far.Err, errClosed) {
		t.Errorf("results %+v and %+v", near, far)
	}
}

// What was sent before a graceful end arrives, also when its reader is slow.
func TestShutdownLosesNoTail(t *testing.T) {
	b := newBed(t)
	e := b.tunnelled()
	content := noise(3<<20, 5)
	go func() {
		_, _ = e.far.Write(content)
		_ = e.far.CloseWrite()
	}()
	_ = e.near.CloseWrite()
	if r := result(t, e.farEnd); r.Err != nil {
		t.Fatalf("result %+v", r)
	}
	b.onFar(func() { b.srv.Shutdown(func() {}) })
	got, err := io.ReadAll(e.near)
	if err != nil || string(got) != string(content) {
		t.Errorf("%d bytes arrived, %v, want %d", len(got), err, len(content))
	}
	if r := result(t, e.nearEnd); r.Err != nil {
		t.Errorf("result %+v", r)
	}
}

// reported waits until the server told of a failure of that stage with these words.
func (b *bed) reported(stage Stage, words string) {
	b.tb.Helper()
	eventually(b.tb, "a failure with "+words, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.ContainsFunc(b.failures, func(f Failure) bool {
			return f.Stage == stage && strings.Contains(f.Err.Error(), words) && f.Local == b.target().Addr && f.Remote.Addr().IsLoopback()
		})
	})
}

func TestStrangersGetNoTunnel(t *testing.T) {
	b := newBed(t)
	b.onConnect(func(*Incoming) { t.Error("a stranger's request was handled") })
	pool := b.newPool(PoolConfig{})
	other := testca.New(t, "elsewhere.example")
	b.client = other.Credential(other.Identity("shop", "client"))
	b.client.Roots = b.server.Roots
	if _, err := connect(pool, b.target(), b.request()); err == nil {
		t.Error("a peer of another authority got a connection")
	}
	b.reported(StageTLS, "tls handshake")
}

func TestHandshakesUnderWayAreBounded(t *testing.T) {
	b := newBed(t)
	b.onFar(func() {
		for range maxHandshakes {
			b.srv.handshakes[new(handshake)] = struct{}{}
		}
	})
	if _, err := connect(b.pool, b.target(), b.request()); err == nil {
		t.Error("one handshake too many was made")
	}
	b.reported(StageTLS, "too many handshakes")
	b.onFar(func() { clear(b.srv.handshakes) })
	b.onConnect(accepting)
	b.connect()
}
