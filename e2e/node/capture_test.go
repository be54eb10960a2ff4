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

// The app sees its client's address, on a port that the client never takes by itself: else a connection of the client's from that
// port, made while the pod leaves the mesh, would hang.
func TestAppsSeeClientsOnPortsThatClientsDontUse(t *testing.T) {
	lastToo(t, appsSeeClientsOnPortsThatClientsDontUse)
}

func appsSeeClientsOnPortsThatClientsDontUse(t *testing.T, c *demo.Cluster) {
	const calls = 40
	seen := make(chan net.Addr, calls)
	serve(t, c, far, raw, func(conn *net.TCPConn) {
		seen <- conn.RemoteAddr()
		io.Copy(conn, conn)
	})
	for _, from := range []string{client, stranger} { // by a tunnel, and in plain text
		for range calls / 2 {
			if err := talk(c, from, podAddr(c, far, 0, raw), 0); err != nil {
				t.Fatal(err)
			}
			remote := socket.Unmap(<-seen)
			if want := podAddr(c, from, 0, 0).Addr(); remote.Addr() != want || remote.Port() >= 32768 {
				t.Fatalf("the app sees %s, want %s on a port below 32768", remote, want)
			}
		}
	}
}

func TestPodsAreCapturedByTheChosenEngine(t *testing.T) {
	lastToo(t, func(t *testing.T, c *demo.Cluster) {
		for _, node := range []string{"node1", "node2"} {
			engine := c.Spec().Engine
			if engine == "" {
				engine = "ebpf" // where it works, as here
			}
			logged(t, c, demo.Agent(node), "pod enrolled", fmt.Sprintf("engine=%q", engine))
		}
	})
}

// Agents are killed and replaced under a constant load of new connections: what they have set up goes on without them.
func TestAgentsComeAndGoUnnoticed(t *testing.T) { eachEngine(t, agentsComeAndGoUnnoticed) }

func agentsComeAndGoUnnoticed(t *testing.T, c *demo.Cluster) {
	const connections = 200
	name := demo.Agent("node1")
	restored(t, c, name, func(ctx context.Context) error { return c.StartAgent(ctx, "node1") })
	load := startRush(t, c)
	for i := range 6 {
		end := c.Kill
		if i%2 == 1 {
			end = func(ctx context.Context, name string) error { return c.Stop(ctx, name, slow) }
		}
		load.more(t, connections)
		if err := end(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		load.more(t, connections)
		if err := c.StartAgent(t.Context(), "node1"); err != nil {
			t.Fatal(err)
		}
	}
	load.stop(t, 12*connections)
}

// With nobody there to accept, and nobody to look after that, a meshed pod reaches nobody and nobody reaches it; then all is as before.
func TestWithoutAgentAndZtunnelNothingIsPlain(t *testing.T) {
	eachEngine(t, withoutAgentAndZtunnelNothingIsPlain)
}

func withoutAgentAndZtunnelNothingIsPlain(t *testing.T, c *demo.Cluster) {
	agent, ztunnel := demo.Agent("node1"), demo.Ztunnel("node1")
	restored(t, c, ztunnel, func(ctx context.Context) error { return c.StartZtunnel(ctx, "node1") })
	restored(t, c, agent, func(ctx context.Context) error { return c.StartAgent(ctx, "node1") })
	var arrived atomic.Int64
	for _, pod := range []string{client, near, far, outpost} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) {
			arrived.Add(1)
			io.Copy(conn, conn)
		})
	}
	paths := [][2]string{{client, far}, {client, outpost}, {client, near}, {far, client}, {stranger, client}, {outpost, near}}
	for _, first := range [][2]string{{agent, ztunnel}, {ztunnel, agent}} {
		if err := errors.Join(c.Kill(t.Context(), first[0]), c.Kill(t.Context(), first[1])); err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			for family := range 2 {
				if err := within(t, c, 500*time.Millisecond, path[0], podAddr(c, path[1], family, raw)); err == nil {
					t.Errorf("%s reaches %s without agent and ztunnel (family %d)", path[0], path[1], family)
				}
			}
		}
		if n := arrived.Load(); n != 0 {
			t.Errorf("%d connections have come through", n)
		}
		if err := errors.Join(c.StartAgent(t.Context(), "node1"), c.StartZtunnel(t.Context(), "node1")); err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			eventually(t, fmt.Sprintf("%s to reach %s", path[0], path[1]), func(context.Context) error {
				return within(t, c, 5*time.Second, path[0], podAddr(c, path[1], 0, raw))
			})
		}
		arrived.Store(0)
	}
}

// within tries to have a word echoed, in so much time to connect and as much again.
func within(t *testing.T, c *demo.Cluster, patience time.Duration, from string, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := c.Dial(ctx, from, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	return exchange(conn, 0)
}

// A pod comes into the mesh and leaves it, again and again, while it has and gets connections all the time.
func TestPodsComeAndGoUnderLoad(t *testing.T) { lastToo(t, podsComeAndGoUnderLoad) }

func podsComeAndGoUnderLoad(t *testing.T, c *demo.Cluster) {
	load := &rush{}
	for _, pod := range []string{stranger, far, outpost} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	}
	for i, path := range [][2]string{{stranger, far}, {far, stranger}, {outpost, stranger}, {stranger, outpost}} {
		for j, life := range []time.Duration{0, 500 * time.Millisecond} {
			to := podAddr(c, path[1], (i+j)%2, raw)
			load.clients.Go(func() { load.connect(c, path[0], to, life) })
		}
	}
	for range 3 {
		relabel(t, c, stranger, true)
		load.more(t, 200)
		relabel(t, c, stranger, false)
		load.more(t, 200)
	}
	load.stop(t, 1200)
}

// Connections that are older than a pod's enrolment stay what they are, plain and whole, while data flows on them all the time, and
// while the pod comes and goes: a program that pools its connections for days notices nothing.
func TestEnrolmentCutsNoConnection(t *testing.T) { lastToo(t, enrolmentCutsNoConnection) }

func enrolmentCutsNoConnection(t *testing.T, c *demo.Cluster) {
	for _, pod := range []string{stranger, outpost, annex} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	}
	old := &older{}
	t.Cleanup(old.stop)
	for i := range 40 {
		path := [][2]string{{stranger, outpost}, {outpost, stranger}, {stranger, annex}, {annex, stranger}}[i%4]
		old.hold(t, c, path[0], podAddr(c, path[1], i/4%2, raw))
	}
	for range 3 {
		relabel(t, c, stranger, true)
		old.more(t)
		relabel(t, c, stranger, false)
		old.more(t)
	}
	old.stop()
	total := int64(0)
	for _, count := range old.exchanges {
		total += count.Load()
	}
	t.Logf("%d exchanges on %d connections", total, len(old.exchanges))
}

// older are connections that are held, each with an exchange all the time.
type older struct {
	clients   sync.WaitGroup
	stopped   atomic.Bool
	exchanges []*atomic.Int64
}

func (o *older) hold(t *testing.T, c *demo.Cluster, from string, to netip.AddrPort) {
	t.Helper()
	conn, err := c.Dial(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	count := &atomic.Int64{}
	o.exchanges = append(o.exchanges, count)
	o.clients.Go(func() {
		defer conn.Close()
		for i := 0; !o.stopped.Load(); i++ {
			conn.SetDeadline(time.Now().Add(slow))
			if err := exchange(conn, i); err != nil {
				t.Errorf("the connection from %s to %s, which was there before: exchange %d: %v", from, to, i, err)
				return
			}
			count.Add(1)
			time.Sleep(time.Millisecond) // the application thinks
		}
	})
}

// more waits until each of them has had some more exchanges.
func (o *older) more(t *testing.T) {
	t.Helper()
	for i, count := range o.exchanges {
		want := count.Load() + 10
		eventually(t, "more exchanges", func(context.Context) error {
			if now := count.Load(); now < want {
				return fmt.Errorf("%d of %d on connection %d", now, want, i)
			}
			return nil
		})
	}
}

func (o *older) stop() {
	o.stopped.Store(true)
	o.clients.Wait()
}
