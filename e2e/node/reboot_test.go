package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// A node crashes and comes back with new namespaces for the same pods, while pins and the agent's state are still those of the old ones:
// its pods are enrolled anew, and the other node doesn't notice.
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
	for _, pod := range []string{far, outpost} {
		serve(t, c, pod, raw, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	}
	load := &rush{}
	for family := range 2 {
		for _, path := range [][2]string{{far, outpost}, {outpost, far}} {
			load.clients.Go(func() { load.connect(c, path[0], podAddr(c, path[1], family, raw), 0) })
		}
	}
	load.more(t, 100)
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
	if engine == "ebpf" {
		logged(t, c, demo.Agent("node1"), "removed what was pinned for a network namespace that is gone")
	}
}
