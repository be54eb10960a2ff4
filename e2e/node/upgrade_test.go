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

// rush is a constant load of new connections by clients that never try anything twice.
type rush struct {
	clients  sync.WaitGroup
	stopped  atomic.Bool
	finished atomic.Int64
	mu       sync.Mutex
	failures []error
}

// startRush connects on all paths from and to the pods of node1. On each path one client makes short connections, and another such
// that live long enough to see a ztunnel go and short enough to finish in time.
func startRush(t *testing.T, c *demo.Cluster) *rush {
	t.Helper()
	r := &rush{}
	for _, pod := range []string{client, near, far} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) {
			if port := socket.Unmap(conn.RemoteAddr()).Port(); port >= 32768 { // the client's own, not one that ztunnel takes
				r.fail(fmt.Errorf("a connection from %s to %s has escaped", conn.RemoteAddr(), pod))
			}
			io.Copy(conn, conn)
		})
	}
	serve(t, c, outpost, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	for i, path := range [][2]string{{client, far}, {far, client}, {client, near}, {client, outpost}, {stranger, client}} {
		for j, life := range []time.Duration{0, 500 * time.Millisecond} {
			to := podAddr(c, path[1], (i+j)%2, raw)
			r.clients.Go(func() { r.connect(c, path[0], to, life) })
		}
	}
	return r
}

func (r *rush) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, err)
}

// more waits for so many more connections.
func (r *rush) more(t *testing.T, connections int64) {
	t.Helper()
	want := r.finished.Load() + connections
	eventually(t, "more connections", func(context.Context) error {
		if now := r.finished.Load(); now < want {
			return fmt.Errorf("%d of %d", now, want)
		}
		return nil
	})
}

// connect opens one connection after the other.
func (r *rush) connect(c *demo.Cluster, from string, to netip.AddrPort, life time.Duration) {
	for i := 0; !r.stopped.Load(); i++ {
		began := time.Now()
		if err := talk(c, from, to, life); err != nil {
			r.fail(fmt.Errorf("%s from %s to %s, %s after its beginning: %w", time.Now().Format("15:04:05.000"), from, to, time.Since(began).Round(time.Millisecond), err))
		}
		r.finished.Add(1)
	}
}

// talk opens a connection, has what it says echoed for a while, and ends it in order.
func talk(c *demo.Cluster, from string, to netip.AddrPort, life time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), slow)
	defer cancel()
	conn, err := c.Dial(ctx, from, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	end := time.Now().Add(life)
	for i := 0; ; i++ {
		conn.SetDeadline(time.Now().Add(slow))
		if err := exchange(conn, i); err != nil {
			return fmt.Errorf("exchange %d: %w", i, err)
		}
		if time.Now().After(end) {
			break
		}
		time.Sleep(5 * time.Millisecond) // the application thinks
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(conn)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unexpected %q at the end", rest)
	}
	return err
}

// stop ends the load and demands that nothing has failed.
func (r *rush) stop(t *testing.T, atLeast int64) {
	t.Helper()
	r.stopped.Store(true)
	r.clients.Wait()
	if finished := r.finished.Load(); len(r.failures) > 0 || finished < atLeast {
		t.Errorf("%d of %d connections failed, want 0 of at least %d:\n%v", len(r.failures), finished, atLeast, errors.Join(r.failures[:min(10, len(r.failures))]...))
	}
	t.Logf("%d connections", r.finished.Load())
}

// upgrade replaces the ztunnel of node1 by one in another place; the new one serves before the old is told to stop.
func upgrade(t *testing.T, c *demo.Cluster, place string, meanwhile func()) {
	t.Helper()
	next, err := c.NextZtunnel("node1", place)
	if err != nil {
		t.Fatal(err)
	}
	meanwhile()
	if err := next.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next.StopOld(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
}

// A node's ztunnel is replaced twenty times under a constant load of new connections, with the agent restarted in between and at the
// same time: no connection is refused, none is cut that could finish.
func TestZtunnelUpgradesLoseNothing(t *testing.T) { eachEngine(t, ztunnelUpgradesLoseNothing) }

func ztunnelUpgradesLoseNothing(t *testing.T, c *demo.Cluster) {
	const upgrades, between = 20, 500
	restored(t, c, demo.Agent("node1"), func(ctx context.Context) error { return c.StartAgent(ctx, "node1") })
	restored(t, c, demo.Ztunnel("node1"), func(ctx context.Context) error { return c.StartZtunnel(ctx, "node1") })
	start := func() {
		if err := c.StartAgent(t.Context(), "node1"); err != nil {
			t.Fatal(err)
		}
	}
	restart := func(end func(context.Context, string) error) func() {
		return func() {
			if err := end(t.Context(), demo.Agent("node1")); err != nil {
				t.Fatal(err)
			}
			start()
		}
	}
	stop := func(ctx context.Context, name string) error { return c.Stop(ctx, name, slow) }
	load := startRush(t, c)
	for i := range upgrades {
		meanwhile := func() {}
		switch i % 10 {
		case 2:
			restart(stop)()
		case 4:
			restart(c.Kill)()
		case 6:
			meanwhile = restart(stop)
		case 8:
			meanwhile = restart(c.Kill)
		case 3, 9: // both are new at once: the agent may hear of the new ztunnel first
			if err := c.Kill(t.Context(), demo.Agent("node1")); err != nil {
				t.Fatal(err)
			}
			meanwhile = start
		}
		upgrade(t, c, []string{annex, "node1"}[i%2], meanwhile)
		load.more(t, between)
	}
	load.stop(t, upgrades*between)
}

// Agent and ztunnel of a node are replaced at once, and the new agent hears of the new ztunnel before it hears of the old one. That the old
// one has come last doesn't make it the newest: when it ends, as it does soon, no connection notices.
func TestTheOldZtunnelComesLastToANewAgent(t *testing.T) {
	eachEngine(t, theOldZtunnelComesLastToANewAgent)
}

func theOldZtunnelComesLastToANewAgent(t *testing.T, c *demo.Cluster) {
	const upgrades, between = 4, 300
	agent := demo.Agent("node1")
	restored(t, c, agent, func(ctx context.Context) error { return c.StartAgent(ctx, "node1") })
	restored(t, c, demo.Ztunnel("node1"), func(ctx context.Context) error { return c.StartZtunnel(ctx, "node1") })
	connected := func() int {
		lines, err := c.LogLines(agent, "tunnel proxy connected")
		if err != nil {
			t.Fatal(err)
		}
		return len(lines)
	}
	load := startRush(t, c)
	for i := range upgrades {
		if err := c.Kill(t.Context(), agent); err != nil {
			t.Fatal(err)
		}
		before := connected()
		next, err := c.NextZtunnel("node1", []string{annex, "node1"}[i%2])
		if err != nil {
			t.Fatal(err)
		}
		resume, err := next.PauseOld()
		if err := errors.Join(err, c.StartAgent(t.Context(), "node1"), next.Await(t.Context()), resume()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the old ztunnel to come", func(context.Context) error {
			if now := connected() - before; now != 2 {
				return fmt.Errorf("%d have come", now)
			}
			return nil
		})
		load.more(t, between)
		if c.Spec().Engine == "" { // by ebpf new connections come to one of them only: to the one that is at work
			resume, err := next.PauseOld()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resume() })
			load.more(t, between)
			if err := resume(); err != nil {
				t.Fatal(err)
			}
		}
		if err := next.StopOld(t.Context(), slow); err != nil {
			t.Fatal(err)
		}
		load.more(t, between)
	}
	load.stop(t, 2*upgrades*between)
}

// Connections to and from the pods of a node whose ztunnel was killed wait for the next.
func TestConnectionsWaitForTheNextZtunnel(t *testing.T) {
	eachEngine(t, connectionsWaitForTheNextZtunnel)
}

func connectionsWaitForTheNextZtunnel(t *testing.T, c *demo.Cluster) {
	name := demo.Ztunnel("node1")
	restored(t, c, name, func(ctx context.Context) error { return c.StartZtunnel(ctx, "node1") })
	for _, to := range []string{client, far, outpost} {
		serve(t, c, to, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	}
	for to, from := range map[string][]string{client: {near, far, stranger}, far: {client, near}, outpost: {client}} {
		if err := c.Kill(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		waits(t, c, "node1", podAddr(c, to, 0, raw), from...)
	}
}

// waits starts the ztunnel of a node that has none, and expects that connections of other pods which were opened before are served.
func waits(t *testing.T, c *demo.Cluster, node string, to netip.AddrPort, from ...string) {
	t.Helper()
	results := make(chan error, len(from))
	for _, pod := range from {
		go func() {
			err := talk(c, pod, to, 0)
			if err != nil {
				err = fmt.Errorf("%s: %w", pod, err)
			}
			results <- err
		}()
	}
	awaited := len(from)
	select {
	case err := <-results:
		t.Errorf("a connection is done although there is no ztunnel: %v", err)
		awaited--
	case <-time.After(300 * time.Millisecond): // nothing tells that they wait
	}
	if err := c.StartZtunnel(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	for range awaited {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
