package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// restored starts what a test has ended, when the test ends, and waits until all is as before.
func restored(t *testing.T, c *demo.Cluster, name string, start func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := c.Process(name); err != nil {
			if err := start(ctx); err != nil {
				t.Error(err)
			}
		}
		for _, to := range []string{near, far} {
			err := demo.AwaitWithin(ctx, slow, "traffic after a restart of "+name, func(ctx context.Context) error {
				return reaches(ctx, c, client, vip(c, to, 0, 80))
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// secretly runs a load between the nodes through a disturbance, and expects that no request fails nor is ever readable.
func secretly(t *testing.T, c *demo.Cluster, disturb func()) {
	t.Helper()
	const secret = "NEVER-READABLE"
	watch, err := c.Watch("node1", secret)
	if err != nil {
		t.Fatal(err)
	}
	load, err := c.StartLoad(t.Context(), client, "http://"+vip(c, far, 0, 80).String()+"/?"+secret, 2, 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	disturb()
	load.Stop()
	if finished, failed := load.Count(); failed > 0 || finished < 20 {
		t.Errorf("%d of %d requests failed: %v", failed, finished, load.Err())
	}
	report, err := watch.Stop()
	if err != nil {
		t.Error(err)
	}
	if seen := report.Seen(secret); len(seen) > 0 {
		t.Errorf("%d requests were readable: %+v", len(seen), seen[0])
	}
}

// A ztunnel that is told to stop lets connections finish and then goes; those that come meanwhile wait for the next.
func TestZtunnelStopDrains(t *testing.T) {
	c := shared.use(t)
	serve(t, c, far, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	conn := dial(t, c, client, podAddr(c, far, 0, raw))
	if err := exchange(conn, 0); err != nil {
		t.Fatal(err)
	}
	name := demo.Ztunnel("node2")
	restored(t, c, name, func(ctx context.Context) error { return c.StartZtunnel(ctx, "node2") })
	stopped := make(chan error, 1)
	began := time.Now()
	go func() { stopped <- c.Stop(context.Background(), name, slow) }()
	logged(t, c, name, "drain", "signal")
	for i := range 10 { // The one that was open goes on.
		if err := exchange(conn, i); err != nil {
			t.Fatalf("%s after the stop: %v", time.Since(began), err)
		}
	}
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		t.Errorf("the connection didn't end in order: %q, %v", rest, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	t.Logf("stopped after %s", time.Since(began).Round(time.Millisecond))
	waits(t, c, "node2", podAddr(c, far, 0, raw), client, near, stranger)
}

// A connection that doesn't finish is cut at the deadline.
func TestZtunnelStopCutsWhatLingers(t *testing.T) {
	c := shared.use(t)
	serve(t, c, far, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	conn := dial(t, c, client, podAddr(c, far, 0, raw))
	if err := exchange(conn, 0); err != nil {
		t.Fatal(err)
	}
	name := demo.Ztunnel("node2")
	restored(t, c, name, func(ctx context.Context) error { return c.StartZtunnel(ctx, "node2") })
	began := time.Now()
	if err := c.Stop(t.Context(), name, slow); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 3*time.Second || took > 10*time.Second {
		t.Errorf("stopped after %s, want 5 s", took)
	}
	ends(t, conn)
}

// Without its ztunnel, a meshed pod reaches nobody and nobody reaches it: nothing falls back to plain text.
func TestKilledZtunnelFailsClosed(t *testing.T) { eachEngine(t, killedZtunnelFailsClosed) }

func killedZtunnelFailsClosed(t *testing.T, c *demo.Cluster) {
	name := demo.Ztunnel("node1")
	restored(t, c, name, func(ctx context.Context) error { return c.StartZtunnel(ctx, "node1") })
	watch, err := c.Watch("node1", "FAIL-CLOSED")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	var tries sync.WaitGroup
	unserved := func(from, to string, family int) {
		tries.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // they wait for a new ztunnel
			defer cancel()
			if _, err := c.Get(ctx, from, fmt.Sprintf("http://%s/?FAIL-CLOSED", podAddr(c, to, family, web))); err == nil {
				t.Errorf("without a ztunnel, %s reaches %s", from, to)
			}
		})
	}
	for _, family := range []int{0, 1} {
		for _, to := range []string{far, near, outpost, world} {
			unserved(client, to, family)
		}
		for _, from := range []string{stranger, far, world} {
			unserved(from, client, family)
		}
	}
	tries.Wait()
	report, err := watch.Stop()
	if err != nil {
		t.Error(err)
	}
	for _, seen := range report.Seen("FAIL-CLOSED") {
		if seen.From.Addr() == c.PodAddrs(client)[0] || seen.From.Addr() == c.PodAddrs(client)[1] {
			t.Errorf("a request left the pod in plain text: %+v", seen)
		}
	}
	if err := c.StartZtunnel(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	served(t, c, client, vip(c, far, 0, 80))
	served(t, c, far, vip(c, client, 0, 80))
}

// Connections, old and new, don't need the agent; when it is back, it takes pods in and lets them go again.
func TestAgentRestart(t *testing.T) {
	c := shared.use(t)
	name := demo.Agent("node1")
	restored(t, c, name, func(ctx context.Context) error { return c.StartAgent(ctx, "node1") })
	held, err := c.Hold(t.Context(), client, podAddr(c, far, 0, web), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	secretly(t, c, func() {
		for _, end := range []func() error{
			func() error { return c.Kill(t.Context(), name) },
			func() error { return c.Stop(t.Context(), name, slow) },
		} {
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if err := held.Fresh(t.Context()); err != nil {
				t.Error(err)
			}
			if err := c.StartAgent(t.Context(), "node1"); err != nil {
				t.Fatal(err)
			}
			if err := held.Fresh(t.Context()); err != nil {
				t.Error(err)
			}
		}
		relabel(t, c, stranger, true)
		relabel(t, c, stranger, false)
	})
}

// relabel brings a pod into the mesh or takes it out, and waits until all ztunnels know.
func relabel(t *testing.T, c *demo.Cluster, pod string, meshed bool) {
	t.Helper()
	if err := c.LabelPod(pod, demo.Label, map[bool]string{true: demo.Ambient}[meshed]); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitMeshed(t.Context(), meshed, pod); err != nil {
		t.Fatal(err)
	}
}

// A namespace that was unlabelled while the agent was away is let go when it's back.
func TestAgentCatchesUp(t *testing.T) {
	c := shared.use(t)
	name := demo.Agent("node1")
	restored(t, c, name, func(ctx context.Context) error { return c.StartAgent(ctx, "node1") })
	relabel(t, c, stranger, true)
	if err := c.Kill(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := c.LabelPod(stranger, demo.Label, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.StartAgent(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitMeshed(t.Context(), false, stranger); err != nil {
		t.Fatal(err)
	}
	served(t, c, stranger, vip(c, far, 0, 80))
}

// istiod-lite keeps its root, and no connection needs it.
func TestControlPlaneRestart(t *testing.T) {
	c := shared.use(t)
	restored(t, c, demo.Istiod, c.StartIstiod)
	root, err := os.ReadFile(c.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	secretly(t, c, func() {
		for range 2 {
			if err := c.Stop(t.Context(), demo.Istiod, slow); err != nil {
				t.Fatal(err)
			}
			if err := c.StartIstiod(t.Context()); err != nil {
				t.Fatal(err)
			}
			served(t, c, stranger, vip(c, far, 0, 80))
		}
	})
	apply(t, c, "after-restart", denyStranger, 1)
	refused(t, c, stranger, podAddr(c, far, 0, web))
	if again, err := os.ReadFile(c.RootFile()); err != nil || string(again) != string(root) {
		t.Errorf("the root has changed: %v", err)
	}
}

// A ztunnel that starts while the control plane is away isn't ready, and carries nothing; then it catches up by itself.
func TestZtunnelWaitsForTheControlPlane(t *testing.T) {
	c := shared.use(t)
	restored(t, c, demo.Istiod, c.StartIstiod)
	restored(t, c, demo.Ztunnel("node1"), func(ctx context.Context) error { return c.StartZtunnel(ctx, "node1") })
	if err := errors.Join(c.Kill(t.Context(), demo.Istiod), c.Kill(t.Context(), demo.Ztunnel("node1"))); err != nil {
		t.Fatal(err)
	}
	if err := c.LaunchZtunnel("node1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ztunnel to say what it lacks", func(ctx context.Context) error {
		_, err := c.Get(ctx, "node1", "http://127.0.0.1:15021/healthz/ready")
		if err == nil {
			t.Fatal("it's ready without a configuration")
		}
		if !strings.Contains(err.Error(), "not ready, pending") {
			return err
		}
		return nil
	})
	if reaches(t.Context(), c, client, podAddr(c, far, 0, web)) == nil {
		t.Error("without a configuration, traffic is carried")
	}
	if err := c.StartIstiod(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitZtunnel(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	served(t, c, client, podAddr(c, far, 0, web))
}
