package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// A node crashes and comes back with new namespaces for the same pods, while pins and the agent's state are still those of the old ones:
// its pods are enrolled anew, the other node doesn't notice, and nobody on the wire reads what meshed pods say to each other meanwhile.
func TestANodeThatRebootsEnrolsItsPodsAnew(t *testing.T) {
	for name, engine := range map[string]string{"ebpf": "ebpf", "nft": "nft"} {
		t.Run(name, func(t *testing.T) { nodeReboots(t, engine) })
	}
}

func nodeReboots(t *testing.T, engine string) {
	spec := sharedSpec(filepath.Join(t.TempDir(), "run"), engine)
	spec.Name += "reboot"
	c := start(t, spec)
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, c)
		}
	})
	if err := errors.Join(c.LabelNamespace("app", demo.Label, demo.Ambient), c.AwaitMeshed(t.Context(), true, client, near, far)); err != nil {
		t.Fatal(err)
	}
	for _, pod := range []string{client, far, outpost} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	}
	load := &rush{}
	for family := range 2 {
		for _, path := range [][2]string{{far, outpost}, {outpost, far}} {
			load.clients.Go(func() { load.connect(c, path[0], podAddr(c, path[1], family, raw), 0) })
		}
	}
	load.more(t, 100)
	wire, err := c.WatchAll(secret, open)
	if err != nil {
		t.Fatal(err)
	}
	said := whisper(t, c, far, client)
	said.more(t, "before")
	say(t, c, outpost, stranger)
	enrolments := func() int {
		lines, err := c.LogLines(demo.Agent("node1"), "pod enrolled")
		if err != nil {
			t.Fatal(err)
		}
		return len(lines)
	}
	before := enrolments()
	if err := c.Reboot(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	load.more(t, 100)
	if err := errors.Join(c.LaunchZtunnel("node1"), c.StartAgent(t.Context(), "node1"), c.AwaitZtunnel(t.Context(), "node1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both pods to be enrolled anew", func(context.Context) error {
		if now := enrolments(); now != before+2 {
			return fmt.Errorf("%d enrolments, before %d", now, before)
		}
		return nil
	})
	if err := errors.Join(c.StartPods("node1"), c.AwaitMeshed(t.Context(), true, client, near, far)); err != nil {
		t.Fatal(err)
	}
	for family := range 2 {
		for _, path := range [][2]string{{client, far}, {far, client}, {client, near}} {
			served(t, c, path[0], podAddr(c, path[1], family, web))
		}
	}
	own, _ := ask(t, c, client, podAddr(c, far, 0, web), "x")
	checkLogs(t, c, route{client, far, 0, tunnelled}, own)
	load.more(t, 100)
	load.stop(t, 300)
	serve(t, c, client, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) }) // an app starts when its pod is enrolled
	said.more(t, "after")
	whisper(t, c, client, far).more(t, "after, the other way")
	say(t, c, outpost, stranger)
	report, err := wire.Stop()
	if err != nil {
		t.Error(err)
	}
	for _, seen := range report.Seen(secret) {
		t.Errorf("readable on the wire from %s to %s: %s", seen.From, seen.To, seen.Text)
	}
	if report.Seen(open) == nil || report.Records == 0 {
		t.Errorf("the watch is blind: it saw %d packets of others, and %d of tunnels", len(report.Seen(open)), report.Records)
	}
	if engine == "ebpf" {
		logged(t, c, demo.Agent("node1"), "removed what was pinned for a network namespace that is gone")
	}
}

// What meshed pods say to each other, and what others say.
const (
	secret = "BETWEEN-MESHED-PODS"
	open   = "BETWEEN-OTHERS"
)

// whispers are connections, one after the other, over which a secret is echoed if they come to anything.
type whispers struct{ heard atomic.Int64 }

// whisper goes on until the test ends, whatever happens to either pod.
func whisper(t *testing.T, c *demo.Cluster, from, to string) *whispers {
	t.Helper()
	w := &whispers{}
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for family := range 2 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := echo(ctx, c, from, podAddr(c, to, family, raw), secret); err != nil {
					time.Sleep(5 * time.Millisecond) // where it is refused at once, others need the processor
					continue
				}
				w.heard.Add(1)
			}
		})
	}
	t.Cleanup(func() { cancel(); clients.Wait() })
	return w
}

func (w *whispers) more(t *testing.T, when string) {
	t.Helper()
	want := w.heard.Load() + 20
	eventually(t, "secrets to be heard "+when, func(context.Context) error {
		if now := w.heard.Load(); now < want {
			return fmt.Errorf("%d of %d", now, want)
		}
		return nil
	})
}

// say has a word echoed that everybody may read.
func say(t *testing.T, c *demo.Cluster, from, to string) {
	t.Helper()
	serve(t, c, to, raw+1, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	eventually(t, "a word to be heard", func(ctx context.Context) error { return echo(ctx, c, from, podAddr(c, to, 0, raw+1), open) })
}

// echo sends a text over a new connection and wants it back.
func echo(ctx context.Context, c *demo.Cluster, from string, to netip.AddrPort, text string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := c.Dial(ctx, from, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		return fmt.Errorf("got %q, %w", got, err)
	}
	return nil
}
