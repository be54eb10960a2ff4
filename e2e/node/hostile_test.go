package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// descriptors counts the open files of both ztunnels.
func descriptors(t *testing.T, c *demo.Cluster) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, node := range []string{"node1", "node2"} {
		p, err := c.Process(demo.Ztunnel(node))
		if err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.Pid), "fd"))
		if err != nil {
			t.Fatal(err)
		}
		counts[p.Name] = len(files)
	}
	return counts
}

// back waits until the ztunnels have closed what they opened since a count; pooled tunnels may stay.
func back(t *testing.T, c *demo.Cluster, before map[string]int) {
	t.Helper()
	const tunnels = 64
	eventually(t, "the ztunnels to close what they opened", func(context.Context) error {
		for name, now := range descriptors(t, c) {
			if now > before[name]+tunnels {
				return fmt.Errorf("%s has %d open files, before %d", name, now, before[name])
			}
		}
		return nil
	})
}

// Whoever calls the mesh's own ports, from wherever, gets no answer and makes no loop.
func TestCallsToTheMeshsOwnPorts(t *testing.T) {
	c := shared.use(t)
	before := descriptors(t, c)
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, port := range []uint16{15001, 15006, 15008, 15000, 15020, 15021} {
		for _, from := range []string{client, stranger} {
			targets := map[string][]netip.Addr{
				"its own address": c.PodAddrs(from), "loopback": loopback,
				"a meshed pod beside it": c.PodAddrs(near), "a meshed pod of another node": c.PodAddrs(far),
				"an unmeshed pod": c.PodAddrs(outpost),
			}
			if from == client { // For others, a virtual address without such a port leads nowhere.
				targets["a meshed service"] = c.VIPs(far)
			}
			for what, addrs := range targets {
				for _, addr := range addrs {
					to := netip.AddrPortFrom(addr, port)
					t.Run(fmt.Sprintf("%s calls %s, %s", from, what, to), func(t *testing.T) { unanswered(t, c, from, to) })
				}
			}
		}
	}
	back(t, c, before)
	for _, family := range []int{0, 1} {
		served(t, c, client, vip(c, far, family, 80))
	}
}

// unanswered sends a request that a web server would answer, and expects an end without an answer.
func unanswered(t *testing.T, c *demo.Cluster, from string, to netip.AddrPort) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := c.Dial(ctx, from, to)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) { // A reset may come before the dialler looks.
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(slow))
	if _, err := conn.Write([]byte("GET /healthz/ready HTTP/1.1\r\nHost: mesh\r\n\r\n")); err != nil {
		return // Closed already.
	}
	if got := ends(t, conn); bytes.Contains(got, []byte("HTTP/1.")) {
		t.Errorf("it answers: %.100q", got)
	}
}
