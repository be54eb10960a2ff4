package push

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// line is a stream without a network, so that its time can be the test's.
type line struct {
	grpc.ServerStream
	ctx  context.Context
	up   chan *discoveryv3.DeltaDiscoveryRequest
	down chan *discoveryv3.DeltaDiscoveryResponse
	raw  []byte // instead of the next request, unless nil
}

func (l *line) Context() context.Context { return l.ctx }

// Recv isn't used: requests stay partly encoded.
func (l *line) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) { panic("decoded") }

func (l *line) RecvMsg(message any) error {
	select {
	case request := <-l.up:
		encoded, err := proto.Marshal(request)
		if err != nil {
			return err
		}
		if l.raw != nil {
			encoded = l.raw
		}
		return codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(encoded)}, message)
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// Send isn't used: responses are encoded already.
func (l *line) Send(*discoveryv3.DeltaDiscoveryResponse) error { panic("not encoded") }

func (l *line) SendMsg(message any) error {
	encoded, err := codec{}.Marshal(message)
	if err != nil {
		return err
	}
	response := &discoveryv3.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(encoded.Materialize(), response); err != nil {
		return err
	}
	select {
	case l.down <- response:
		return nil
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// bench is a server with one proxy on it.
type bench struct {
	t        *testing.T
	log      *Log
	server   *Server
	registry *prometheus.Registry
	logged   *bytes.Buffer
	line     *line
	ended    chan error
	id       string // of the proxy's node
}

// inBubble runs a test in time of its own, with a proxy connected.
func inBubble(t *testing.T, test func(*bench)) {
	t.Helper()
	inBubbleAs(t, Caller{"istio-system", "ztunnel", "node1", "", ""}, test)
}

const ztunnelID = "ztunnel~1.1.1.1~z.istio-system~x"

func inBubbleAs(t *testing.T, caller Caller, test func(*bench)) {
	t.Helper()
	inBubbleWith(t, caller, ztunnelID, test)
}

func inBubbleWith(t *testing.T, caller Caller, id string, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, log: NewLog(), registry: prometheus.NewRegistry(), logged: &bytes.Buffer{}, id: id}
		var machines atomic.Int32 // each stream is another machine's
		b.server = NewServer(Config{
			Log: b.log, Registry: b.registry, Logger: slog.New(slog.NewTextHandler(b.logged, nil)),
			Authenticate: func(context.Context) (Caller, error) {
				caller := caller
				caller.Address = fmt.Sprint(machines.Add(1))
				return caller, nil
			},
			TrustedNodeAccounts: []string{"istio-system/ztunnel"},
			Waypoint:            waypointOf,
		})
		hangUp := b.connect()
		test(b)
		hangUp()
		b.server.Wait()
		b.nothingIsLeft()
	})
}

// nothingIsLeft of streams that have ended.
func (b *bench) nothingIsLeft() {
	b.t.Helper()
	synctest.Wait()
	b.log.lock.Lock()
	defer b.log.lock.Unlock()
	for what, left := range map[string]int{
		"cursors": len(b.log.readers), "listeners": len(*b.log.listeners.Load()), "views": len(b.log.views.byWaypoint),
		"turns": len(b.server.hearing), "shown streams": len(b.server.streams), "counted streams": len(b.server.opened),
	} {
		if left != 0 {
			b.t.Errorf("%d %s are left", left, what)
		}
	}
}

// connect opens a stream; what it returns ends it.
func (b *bench) connect() func() {
	ctx, cancel := context.WithCancel(b.t.Context())
	b.line = &line{ctx: ctx, up: make(chan *discoveryv3.DeltaDiscoveryRequest), down: make(chan *discoveryv3.DeltaDiscoveryResponse)}
	line, ended := b.line, make(chan error, 1)
	b.ended = ended
	go func() {
		// The end of a handler ends its stream, as with gRPC.
		defer cancel()
		ended <- b.server.DeltaAggregatedResources(line)
	}()
	return cancel
}

func (b *bench) send(request *discoveryv3.DeltaDiscoveryRequest) {
	b.t.Helper()
	if request.Node == nil {
		request.Node = &corev3.Node{Id: b.id}
	}
	select {
	case b.line.up <- request:
	case <-time.After(time.Minute):
		b.t.Fatal("the server doesn't read")
	}
}

// subscribe asks for everything of the types.
func (b *bench) subscribe(types ...string) {
	b.t.Helper()
	for _, typeURL := range types {
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL})
	}
}

// next returns the next response and how long it took.
func (b *bench) next() (*discoveryv3.DeltaDiscoveryResponse, time.Duration) {
	b.t.Helper()
	start := time.Now()
	select {
	case response := <-b.line.down:
		return response, time.Since(start)
	case err := <-b.ended:
		b.t.Fatalf("the stream ended: %v", err)
	case <-time.After(time.Minute):
		b.t.Fatal("nothing came")
	}
	return nil, 0
}

func (b *bench) ack(response *discoveryv3.DeltaDiscoveryResponse) {
	b.t.Helper()
	b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: response.TypeUrl, ResponseNonce: response.Nonce})
}

// take wants a response of these resources, "name" or "-name", and acknowledges it.
func (b *bench) take(typeURL string, want ...string) time.Duration {
	b.t.Helper()
	response, took := b.next()
	if got := contents(response); response.TypeUrl != typeURL || !slices.Equal(got, want) {
		b.t.Fatalf("want %s %v, have %s %v", short(typeURL), want, short(response.TypeUrl), got)
	}
	b.ack(response)
	return took
}

func contents(response *discoveryv3.DeltaDiscoveryResponse) []string {
	var list []string
	for _, resource := range response.Resources {
		list = append(list, resource.Name)
	}
	for _, name := range response.RemovedResources {
		list = append(list, "-"+name)
	}
	return list
}

// silent wants nothing to come within the time.
func (b *bench) silent(time_ time.Duration) {
	b.t.Helper()
	select {
	case response := <-b.line.down:
		b.t.Fatalf("came %s %v", short(response.TypeUrl), contents(response))
	case err := <-b.ended:
		b.t.Fatalf("the stream ended: %v", err)
	case <-time.After(time_):
	}
}

// publish makes one change: "w/name=value" is a workload, "p/name=value" a policy; without a value it goes.
func publish(t testing.TB, log *Log, changes ...string) int {
	t.Helper()
	var updates []Update
	for _, change := range changes {
		name, value, there := strings.Cut(change, "=")
		update := Update{Type: Address, Name: name}
		if strings.HasPrefix(name, "p/") {
			update.Type = Authorization
		}
		switch {
		case !there:
		case update.Type == Authorization:
			update.Message = &security.Authorization{Name: value}
		default:
			update.Message = &workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{Uid: name, Name: value}}}
		}
		updates = append(updates, update)
	}
	changed, failures := log.Publish(updates)
	if len(failures) != 0 {
		t.Fatal(failures)
	}
	return changed
}

// metric returns the value of a counter or a gauge.
func (b *bench) metric(name string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() == name {
			for _, one := range family.Metric {
				sum += one.GetCounter().GetValue() + one.GetGauge().GetValue() + float64(one.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func (b *bench) wantEnd(text string) {
	b.t.Helper()
	select {
	case err := <-b.ended:
		if got := status.Code(err).String() + ": " + status.Convert(err).Message(); got != text {
			b.t.Errorf("want %s, have %s", text, got)
		}
	case <-time.After(time.Hour):
		b.t.Error("the stream doesn't end")
	}
}

func nack(response *discoveryv3.DeltaDiscoveryResponse, reason string) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: response.TypeUrl, ResponseNonce: response.Nonce, ErrorDetail: &rpcstatus.Status{Message: reason},
	}
}
