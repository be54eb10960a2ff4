package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

const (
	// patience bounds every wait of these tests, and moment is how long they look whether something doesn't happen.
	patience, moment = 10 * time.Second, 50 * time.Millisecond
)

// asker proves callers by a function.
type asker func(context.Context) (ca.Caller, error)

func (a asker) Authenticate(ctx context.Context) (ca.Caller, error) { return a(ctx) }

// anybody is good.
func anybody(context.Context) (ca.Caller, error) {
	return ca.Caller{Namespace: "istio-system", ServiceAccount: "ztunnel", Node: "node1"}, nil
}

// porch serves streams behind a door until the test ends.
type porch struct {
	t    *testing.T
	addr string
}

func behind(t *testing.T, d *door) porch {
	t.Helper()
	listener, err := d.listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(d.options()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, waiting{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		d.streams.Wait()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return porch{t, listener.Addr().String()}
}

func (p porch) dial() *grpc.ClientConn {
	p.t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { connection.Close() })
	return connection
}

// call is a stream, as far as it came.
type call struct {
	served chan error // what came first: nil if it was served
	ended  chan error // why it ended after that
}

func (p porch) call(connection *grpc.ClientConn) call {
	c := call{make(chan error, 1), make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		c.served <- err
		return c
	}
	go func() {
		_, err := stream.Recv()
		c.served <- err
		_, err = stream.Recv()
		c.ended <- err
	}()
	return c
}

// crowd opens so many connections, on each of which somebody who says that he is greedy proves himself and stays.
func (p porch) crowd(n int) {
	p.t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "greedy", "yes"), patience)
		p.t.Cleanup(cancel)
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(p.dial()).DeltaAggregatedResources(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// mustServe waits until the call is served.
func (p porch) mustServe(c call) {
	p.t.Helper()
	if err := <-c.served; err != nil {
		p.t.Fatalf("not served: %v", err)
	}
}

// doorOf has the usual limits, but for what change makes of them.
func doorOf(callers asker, change func(*limits)) *door {
	l := usual
	change(&l)
	return newDoor(l, []string{"istio-system/ztunnel"}, callers, ca.Pods{}, slog.New(slog.DiscardHandler))
}

func TestConnectionsBeyondTheLimitWaitUntilOneGoes(t *testing.T) {
	p := behind(t, doorOf(anybody, func(l *limits) { l.connections = 2 }))
	first := p.dial()
	p.mustServe(p.call(first))
	p.mustServe(p.call(p.dial()))
	third := make(chan call, 1)
	go func() { third <- p.call(p.dial()) }()
	select {
	case c := <-third:
		t.Fatalf("a third of two is connected: %v", <-c.served)
	case <-time.After(moment):
	}
	first.Close()
	p.mustServe(<-third)
}

// Nobody has to prove anything to connect.
func TestWhoOnlyConnectsKeepsNoProxyOut(t *testing.T) {
	p := behind(t, doorOf(func(ctx context.Context) (ca.Caller, error) {
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("wrong")) > 0 {
			return ca.Caller{}, errors.New("wrong token")
		}
		return anybody(ctx)
	}, func(l *limits) { l.connections = 4 }))
	proven := p.call(p.dial())
	p.mustServe(proven)

	for n := range 20 {
		silent, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		if n%2 == 0 {
			continue
		}
		connection := p.dial() // speaks, but with a wrong token
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "wrong", "yes"), patience)
		defer cancel()
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Fatalf("a wrong token: %v", err)
		}
	}
	for range 3 {
		p.mustServe(p.call(p.dial()))
	}
	select {
	case err := <-proven.ended:
		t.Errorf("the stream of a proven proxy had to go: %v", err)
	default:
	}
}

// A connection that is reset before it is accepted, and opened again from the same port, is two to us and one to whoever counts by address.
func TestAConnectionThatIsResetAndOpenedAgainIsCountedOnce(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := receive(inner, 2)
	defer g.Close()
	var from net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 7, 1)} // from which nobody else takes the port meanwhile
	dial := func() *net.TCPConn {
		t.Helper()
		conn, err := (&net.Dialer{LocalAddr: from}).Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn.(*net.TCPConn)
	}
	first := dial()
	from = first.LocalAddr()
	first.SetLinger(0)
	first.Close()
	second := dial()
	defer second.Close()
	from = nil
	accepted := make(chan error)
	for range 6 {
		go func() {
			_, err := g.Accept()
			accepted <- err
		}()
	}
	for range 4 {
		defer dial().Close()
	}
	for range 6 {
		select {
		case err := <-accepted:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("nobody is let in any more")
		}
	}
	g.lock.Lock()
	defer g.lock.Unlock()
	if waiting := g.queues[unproven].Len(); len(g.open) != 2 || waiting != 2 {
		t.Errorf("%d are open, %d unproven, want 2", len(g.open), waiting)
	}
}

// A token proves a pod, but not that it is a proxy.
func TestAPodThatProvesItselfOnManyConnectionsKeepsNobodyOut(t *testing.T) {
	p := behind(t, doorOf(func(ctx context.Context) (ca.Caller, error) {
		caller, err := anybody(ctx)
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("greedy")) > 0 {
			caller.Pod = "greedy"
		}
		return caller, err
	}, func(l *limits) { l.connections = maxProven + 4 }))
	proven := p.call(p.dial())
	p.mustServe(proven)
	p.crowd(2 * maxProven)
	p.mustServe(p.call(p.dial()))
	select {
	case err := <-proven.ended:
		t.Errorf("the stream of another had to go: %v", err)
	default:
	}
}

// Whoever may ask for the tokens of an account has any number of them, and they are of no pod. That account may be the nodes' proxies' own.
func TestAnAccountWithoutAPodThatProvesItselfOnManyConnectionsKeepsNobodyOut(t *testing.T) {
	for _, account := range []string{"default", "ztunnel"} {
		t.Run(account, func(t *testing.T) {
			d := doorOf(func(ctx context.Context) (ca.Caller, error) {
				if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("greedy")) > 0 {
					return ca.Caller{Namespace: "istio-system", ServiceAccount: account}, nil
				}
				return anybody(ctx)
			}, func(l *limits) { l.connections = maxProven + 2 })
			p := behind(t, d)
			node := p.call(p.dial())
			p.mustServe(node)
			p.crowd(2 * maxProven)
			d.guests.lock.Lock()
			if have := len(d.guests.open); have > maxProven+1 {
				t.Errorf("%d connections are open, want %d at most", have, maxProven+1)
			}
			d.guests.lock.Unlock()
			for range 3 { // for the last of them there is no room beside it
				p.mustServe(p.call(p.dial()))
			}
			select {
			case err := <-node.ended:
				t.Errorf("the stream of a node's proxy had to go: %v", err)
			default:
			}
		})
	}
}

// Whoever may run many pods has as many tokens.
func TestManyPodsThatProveThemselvesKeepNoNodesProxyOut(t *testing.T) {
	p := behind(t, doorOf(func(ctx context.Context) (ca.Caller, error) {
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("pod")) > 0 {
			return ca.Caller{Namespace: "tenant", ServiceAccount: "default", Node: "node1", Pod: md.Get("pod")[0]}, nil
		}
		return anybody(ctx)
	}, func(l *limits) { l.connections = 4 }))
	node := p.call(p.dial())
	p.mustServe(node)
	for i := range 10 {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "pod", fmt.Sprint(i)), patience)
		defer cancel()
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(p.dial()).DeltaAggregatedResources(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatalf("pod %d: %v", i, err)
		}
	}
	for range 3 {
		p.mustServe(p.call(p.dial()))
	}
	select {
	case err := <-node.ended:
		t.Errorf("the stream of a node's proxy had to go: %v", err)
	default:
	}
}

func TestUnprovenCallsBeyondTheLimitAreToldToComeAgain(t *testing.T) {
	asked, answer := make(chan struct{}, 3), make(chan struct{})
	p := behind(t, doorOf(func(ctx context.Context) (ca.Caller, error) {
		asked <- struct{}{}
		<-answer
		return anybody(ctx)
	}, func(l *limits) { l.unproven = 2 }))
	connection := p.dial()
	first, second := p.call(connection), p.call(connection)
	<-asked
	<-asked
	if err := <-p.call(connection).served; status.Code(err) != codes.Unavailable || len(asked) != 0 {
		t.Errorf("a third of two: %v", err)
	}
	close(answer)
	p.mustServe(first)
	p.mustServe(second)
	p.mustServe(p.call(connection)) // those who are proven don't count
}

func TestAConnectionIsLeftForAnotherAtItsAge(t *testing.T) {
	const age, grace = 200 * time.Millisecond, 300 * time.Millisecond
	p := behind(t, doorOf(anybody, func(l *limits) { l.age, l.grace = age, grace }))
	connection := p.dial()
	began := time.Now()
	old := p.call(connection)
	p.mustServe(old)
	err := <-old.ended
	if lasted := time.Since(began); status.Code(err) != codes.Unavailable || lasted < age*9/10+grace {
		t.Errorf("ended after %s with %v", lasted, err)
	}
	p.mustServe(p.call(connection))
}

func TestAConnectionThatSaysNothingIsClosed(t *testing.T) {
	for name, change := range map[string]func(*limits){
		"at the beginning": func(l *limits) { l.greeting = moment },
		"between calls":    func(l *limits) { l.idle = moment },
	} {
		t.Run(name, func(t *testing.T) {
			p := behind(t, doorOf(anybody, change))
			if name == "at the beginning" {
				silent, err := net.Dial("tcp", p.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer silent.Close()
				if err := silent.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				for err == nil {
					_, err = silent.Read(make([]byte, 1024)) // the server's own greeting
				}
				var late net.Error
				if errors.As(err, &late) && late.Timeout() {
					t.Errorf("still open after %s", patience)
				}
				return
			}
			connection := p.dial()
			connection.Connect()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for _, state := range []connectivity.State{connectivity.Idle, connectivity.Connecting, connectivity.Ready} {
				if !connection.WaitForStateChange(ctx, state) {
					t.Fatalf("still %s after %s", state, patience)
				}
			}
		})
	}
}

// TestAStreamLastsAsLongAsItsCallerIsProven and no longer; while nobody can tell, it goes on.
func TestAStreamLastsAsLongAsItsCallerIsProven(t *testing.T) {
	revoked := errors.New("the token has been invalidated")
	for name, test := range map[string]struct {
		answers []error // to those who ask again
		gone    bool    // the pod, then
	}{
		"its token is revoked":                    {answers: []error{nil, nil, revoked}},
		"and the API server was away before that": {answers: []error{fmt.Errorf("connection refused: %w", ca.ErrUnavailable), nil, revoked}},
		"its pod is gone":                         {answers: []error{nil, nil}, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			bound := ca.Caller{Namespace: "istio-system", ServiceAccount: "ztunnel", Pod: "ztunnel-1", PodUID: "1"}
			d := doorOf(func(context.Context) (ca.Caller, error) {
				if n := int(asked.Add(1)); n > 1 && n-2 < len(test.answers) {
					return bound, test.answers[n-2]
				}
				return bound, nil
			}, func(l *limits) { l.proof, l.reviews = 20*time.Millisecond, 1 })
			d.pods.Find = func(string, string) (ca.Pod, bool) {
				return ca.Pod{UID: "1", Node: "node1", ServiceAccount: "ztunnel"}, !test.gone || int(asked.Load()) <= len(test.answers)
			}
			p := behind(t, d)
			c := p.call(p.dial())
			p.mustServe(c)
			if err := <-c.ended; status.Code(err) != codes.Unauthenticated {
				t.Errorf("ended with %v", err)
			}
			if n, want := int(asked.Load()), 1+len(test.answers); n != want {
				t.Errorf("proven %d times, want %d", n, want)
			}
		})
	}
}

func TestTokensAreReviewedAgainWithinSevenMinutesAndNotAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := doorOf(func(context.Context) (ca.Caller, error) { return ca.Caller{}, errors.New("revoked") }, func(*limits) {})
		began, moments := time.Now(), make(chan time.Duration, 100)
		for range cap(moments) {
			go func() {
				caller, _ := anybody(t.Context())
				if err := d.untilUnproven(ca.WithCaller(t.Context(), caller)); err == nil {
					t.Error("still proven")
				}
				moments <- time.Since(began)
			}()
		}
		different := make(map[time.Duration]bool)
		for range cap(moments) {
			took := <-moments
			if different[took.Truncate(time.Millisecond)] = true; took < 200*time.Second || took > 400*time.Second {
				t.Errorf("after %s", took)
			}
		}
		if len(different) < 50 {
			t.Errorf("100 callers at %d different times", len(different))
		}
	})
}

func TestAPodThatIsGoneIsMissedWithinFortySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := doorOf(func(context.Context) (ca.Caller, error) { return ca.Caller{}, nil }, func(*limits) {})
		d.pods.Find = func(string, string) (ca.Pod, bool) { return ca.Pod{}, false }
		began := time.Now()
		bound := ca.Caller{Namespace: "istio-system", ServiceAccount: "ztunnel", Pod: "ztunnel-1", PodUID: "1"}
		if err := d.untilUnproven(ca.WithCaller(t.Context(), bound)); err == nil || time.Since(began) > 40*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
