package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// What a node's programs do while they are killed and started. Whoever overlaps two phases may be served or not.
const (
	up       = iota // all run, everybody is served
	ending          // some are being killed
	down            // they are gone, nobody is served
	starting        // the next are starting
)

// ordeal is a constant load of new connections from and to the pods of node1, through phases of which each has its own rule.
type ordeal struct {
	clients  sync.WaitGroup
	stopped  atomic.Bool
	phase    atomic.Int64 // counts on: its remainder by 4 is one of the above
	served   []atomic.Int64
	tried    atomic.Int64
	mu       sync.Mutex
	failures []error
}

func startOrdeal(t *testing.T, c *demo.Cluster) *ordeal {
	t.Helper()
	paths := [][2]string{{client, far}, {far, client}, {client, near}, {client, outpost}, {stranger, client}, {outpost, near}}
	o := &ordeal{served: make([]atomic.Int64, 2*len(paths))}
	for _, pod := range []string{client, near, far} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) {
			if port := socket.Unmap(conn.RemoteAddr()).Port(); port >= 32768 { // the client's own, not one that ztunnel takes
				o.fail(fmt.Errorf("a connection from %s to %s has escaped", conn.RemoteAddr(), pod))
			}
			io.Copy(conn, conn)
		})
	}
	serve(t, c, outpost, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	t.Cleanup(o.stop)
	for i, path := range paths {
		for family := range 2 {
			to := podAddr(c, path[1], family, raw)
			o.clients.Go(func() { o.connect(c, path[0], to, &o.served[2*i+family]) })
		}
	}
	return o
}

// connect opens one connection after the other, and judges each by the phase that it was in from its beginning to its end.
func (o *ordeal) connect(c *demo.Cluster, from string, to netip.AddrPort, served *atomic.Int64) {
	for !o.stopped.Load() {
		phase := o.phase.Load()
		err := talk(c, from, to, 0)
		same := o.phase.Load() == phase
		o.tried.Add(1)
		switch {
		case same && phase%4 == up && err != nil:
			o.fail(fmt.Errorf("from %s to %s, while all run: %w", from, to, err))
		case same && phase%4 == down && err == nil:
			o.fail(fmt.Errorf("from %s to %s: served by nobody", from, to))
		case same && phase%4 == up:
			served.Add(1)
		case err != nil:
			time.Sleep(5 * time.Millisecond) // where it is refused at once, others need the processor
		}
	}
}

func (o *ordeal) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failures = append(o.failures, err)
}

// more waits until so many more connections have been served on each path, all within the phase in which all run.
func (o *ordeal) more(t *testing.T, connections int64) {
	t.Helper()
	for i := range o.served {
		want := o.served[i].Load() + connections
		eventually(t, "more connections on each path", func(context.Context) error {
			if now := o.served[i].Load(); now < want {
				return fmt.Errorf("%d of %d on path %d", now, want, i)
			}
			return nil
		})
	}
}

func (o *ordeal) stop() {
	o.stopped.Store(true)
	o.clients.Wait()
}

// judge ends the load and demands that no connection has broken the rule of its phase.
func (o *ordeal) judge(t *testing.T) {
	t.Helper()
	o.stop()
	if len(o.failures) > 0 {
		t.Errorf("%d of %d connections broke the rule:\n%v", len(o.failures), o.tried.Load(), errors.Join(o.failures[:min(10, len(o.failures))]...))
	}
	t.Logf("%d connections", o.tried.Load())
}

// A ztunnel is killed under load: nobody is served until there is another one, then everybody is.
func TestZtunnelsAreKilledUnderLoad(t *testing.T) {
	eachEngine(t, func(t *testing.T, c *demo.Cluster) { killedUnderLoad(t, c, demo.Ztunnel("node1")) })
}

// The agent is killed with it, so that nobody holds the listeners: the same, but connections don't wait.
func TestAgentsAndZtunnelsAreKilledUnderLoad(t *testing.T) {
	eachEngine(t, func(t *testing.T, c *demo.Cluster) { killedUnderLoad(t, c, demo.Agent("node1"), demo.Ztunnel("node1")) })
}

// Of two ztunnels the one that came last is killed under load, as when a new version has a bug: what it had is lost, and the one before, which
// still runs, serves everybody again.
func TestTheNewerOfTwoZtunnelsCrashes(t *testing.T) { eachEngine(t, theNewerOfTwoZtunnelsCrashes) }

func theNewerOfTwoZtunnelsCrashes(t *testing.T, c *demo.Cluster) {
	const rounds, connections = 3, 10
	load := startOrdeal(t, c)
	load.more(t, connections)
	for range rounds {
		next, err := c.NextZtunnel("node1", annex)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = next.KillNew(context.Background()) }) // if the test has ended before that
		if err := next.Await(t.Context()); err != nil {
			t.Fatal(err)
		}
		load.more(t, connections)
		load.phase.Add(ending)
		if err := next.KillNew(t.Context()); err != nil {
			t.Fatal(err)
		}
		load.phase.Add(4 - ending)
		load.more(t, connections)
	}
	load.judge(t)
}

func killedUnderLoad(t *testing.T, c *demo.Cluster, names ...string) {
	const rounds, connections = 2, 10
	start := map[string]func(context.Context) error{
		demo.Agent("node1"):   func(ctx context.Context) error { return c.StartAgent(ctx, "node1") },
		demo.Ztunnel("node1"): func(ctx context.Context) error { return c.StartZtunnel(ctx, "node1") },
	}
	for i := range names {
		restored(t, c, names[len(names)-1-i], start[names[len(names)-1-i]])
	}
	load, others := startOrdeal(t, c), &older{}
	serve(t, c, stranger, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	t.Cleanup(others.stop)
	for _, path := range [][2]string{{stranger, outpost}, {outpost, stranger}, {far, outpost}, {outpost, far}} { // not by the ztunnel of node1
		for family := range 2 {
			others.hold(t, c, path[0], podAddr(c, path[1], family, raw))
		}
	}
	load.more(t, connections)
	for range rounds {
		load.phase.Add(1)
		var killed sync.WaitGroup
		for _, name := range names {
			killed.Go(func() {
				if err := c.Kill(t.Context(), name); err != nil {
					t.Error(err)
				}
			})
		}
		killed.Wait()
		load.phase.Add(1)
		others.more(t)
		time.Sleep(500 * time.Millisecond) // nothing tells that nobody is served
		load.phase.Add(1)
		for _, name := range names {
			if err := start[name](t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		load.phase.Add(1)
		load.more(t, connections)
		others.more(t)
	}
	others.stop()
	load.judge(t)
}
