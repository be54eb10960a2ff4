package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// ask sends one request with a marker over a new connection, and returns the caller's own address and the answer.
func ask(t *testing.T, c *demo.Cluster, from string, to netip.AddrPort, marker string) (netip.AddrPort, string) {
	t.Helper()
	conn := dialOnce(t, c, from, to)
	defer conn.Close()
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/?marker=%s", to, marker), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		t.Fatalf("%s asks %s: %v", from, to, err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s asks %s: %s, %v", from, to, response.Status, err)
	}
	return conn.LocalAddr().(*net.TCPAddr).AddrPort(), string(body)
}

// ports are below those that the kernel gives out.
var ports atomic.Uint32

// dialOnce connects from a port that no connection had before. Where one is used again for another destination, address
// translation may give the connection a new one on its way to ztunnel, and the logs couldn't be searched for it.
func dialOnce(t *testing.T, c *demo.Cluster, from string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	netns, err := c.Netns(from)
	if err != nil {
		t.Fatal(err)
	}
	family := 0
	if to.Addr().Is6() {
		family = 1
	}
	source := podAddr(c, from, family, 0).Addr()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	conn, err := netns.Dial(ctx, to, socket.DialConfig{Source: source, SourcePort: uint16(20000 + ports.Add(1))})
	if err != nil {
		t.Fatalf("from %s: %v", from, err)
	}
	conn.SetDeadline(time.Now().Add(slow))
	return conn
}

// How traffic goes from one place to another.
const (
	tunnelled = "tunnelled"   // captured on both sides, mTLS between
	received  = "received"    // plain on the wire, captured where it arrives
	passed    = "passed"      // captured where it starts, plain on the wire
	untouched = "not touched" // neither
)

func TestPaths(t *testing.T) {
	c := shared.use(t)
	serveWorld(t, c)
	cases := []struct {
		name, from, to string
		service        bool
		server         string // which pod answers
		how            string
		crosses        bool // the link between the nodes
	}{
		{"pod to service on another node", client, far, true, far, tunnelled, true},
		{"pod to pod address on another node", client, far, false, far, tunnelled, true},
		{"pod to service on the same node", client, near, true, near, tunnelled, false},
		{"pod to pod address on the same node", client, near, false, near, tunnelled, false},
		{"pod to its own service", client, client, true, client, tunnelled, false},
		{"pod to its own address", client, client, false, client, untouched, false},
		{"unmeshed pod to meshed service", stranger, far, true, far, received, true},
		{"unmeshed pod to meshed pod", stranger, far, false, far, received, true},
		{"unmeshed pod to meshed pod of the same node", stranger, near, false, near, received, false},
		{"meshed pod to unmeshed service", client, outpost, true, outpost, passed, true},
		{"meshed pod to unmeshed pod", client, outpost, false, outpost, passed, true},
		{"unmeshed pod to unmeshed pod", stranger, outpost, false, outpost, untouched, true},
		{"meshed pod to the world outside", client, world, false, world, passed, true},
		{"the world outside to meshed pod", world, far, false, far, received, false},
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		number := strings.Index("IPv4 IPv6", family) / 5
		for _, tc := range cases {
			t.Run(family+" "+tc.name, func(t *testing.T) {
				to := podAddr(c, tc.to, number, web)
				if tc.service {
					to = vip(c, tc.to, number, 80)
				}
				watch, err := c.Watch("node1", "ON-THE-WIRE")
				if err != nil {
					t.Fatal(err)
				}
				own, answer := ask(t, c, tc.from, to, "ON-THE-WIRE")
				report, err := watch.Stop()
				if err != nil {
					t.Error(err)
				}
				if !strings.HasPrefix(answer, "backend "+tc.server+" ") {
					t.Errorf("answered by somebody else than %s:\n%s", tc.server, answer)
				}
				if want := "peer: " + bracketed(own.Addr()); !strings.Contains(answer, want) && tc.server != tc.from {
					t.Errorf("the server doesn't see the caller's address (%s):\n%s", want, answer)
				}
				readable := len(report.Seen("ON-THE-WIRE")) > 0
				if want := tc.crosses && tc.how != tunnelled; readable != want {
					t.Errorf("readable on the wire: %v, want %v", readable, want)
				}
				checkLogs(t, c, route{tc.from, tc.server, number, tc.how}, own)
			})
		}
	}
}

// bracketed is an address as it begins in an address with a port.
func bracketed(addr netip.Addr) string {
	if addr.Is6() {
		return "[" + addr.String() + "]:"
	}
	return addr.String() + ":"
}

// serveWorld runs the sample application outside of the mesh.
func serveWorld(t *testing.T, c *demo.Cluster) {
	command, err := c.Command(world, []string{programs.Tulle, "app", "backend", "--version", world})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Run() }()
	t.Cleanup(func() {
		command.Process.Kill()
		<-ended
	})
	served(t, c, world, podAddr(c, world, 0, web))
}

// route is a connection's way, which the logs must show.
type route struct {
	from, server string
	family       int
	how          string
}

// checkLogs finds the connection in the logs of the ztunnels that must have carried it, with the identities it must have
// been carried under.
func checkLogs(t *testing.T, c *demo.Cluster, r route, own netip.AddrPort) {
	t.Helper()
	node := map[string]string{client: "node1", near: "node1", stranger: "node1", far: "node2", outpost: "node2"}
	id := func(side, pod string) string {
		return side + `.identity="spiffe://cluster.local/ns/app/sa/` + pod + `"`
	}
	src, plain := "src.addr="+own.String(), "dst.addr="+podAddr(c, r.server, r.family, web).String()
	tunnel := "dst.addr=" + podAddr(c, r.server, r.family, demo.HBONEPort).String()
	switch r.how {
	case tunnelled:
		logged(t, c, demo.Ztunnel(node[r.from]), "access", src, tunnel, `direction="outbound"`, "connection complete", id("src", r.from), id("dst", r.server))
		logged(t, c, demo.Ztunnel(node[r.server]), "access", `direction="inbound"`, tunnel, id("src", r.from), id("dst", r.server))
	case passed:
		line := logged(t, c, demo.Ztunnel(node[r.from]), "access", src, plain, `direction="outbound"`, "connection complete")
		if strings.Contains(line, "dst.identity=") {
			t.Errorf("it has an identity, but went in plain text: %s", line)
		}
	case received:
		line := logged(t, c, demo.Ztunnel(node[r.server]), "access", src, plain, `direction="inbound"`, "connection complete")
		if strings.Contains(line, "src.identity=") {
			t.Errorf("an unmeshed caller has an identity: %s", line)
		}
	case untouched:
		for _, n := range []string{"node1", "node2"} {
			if lines, _ := c.LogLines(demo.Ztunnel(n), src, plain); len(lines) > 0 {
				t.Errorf("a ztunnel touched it: %s", lines[0])
			}
		}
	}
}

// A connection stays on one path while its pod joins and leaves the mesh, and no request fails meanwhile.
func TestPodJoinsAndLeavesByItsOwnLabel(t *testing.T) {
	c := shared.use(t)
	held, err := c.Hold(t.Context(), stranger, podAddr(c, far, 0, web), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	load, err := c.StartLoad(t.Context(), stranger, "http://"+vip(c, far, 0, 80).String()+"/", 2, 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer load.Stop()
	for round := range 3 {
		for _, meshed := range []bool{true, false} {
			relabel(t, c, stranger, meshed)
			if err := held.Fresh(t.Context()); err != nil {
				t.Fatalf("round %d, meshed %v: %v", round, meshed, err)
			}
		}
	}
	// Un-enrolment ends with the node's last rule.
	eventually(t, "the pod to be let go", func(context.Context) error {
		own, _ := ask(t, c, stranger, vip(c, far, 0, 80), "x")
		dst := "dst.addr=" + podAddr(c, far, 0, demo.HBONEPort).String()
		if lines, _ := c.LogLines(demo.Ztunnel("node1"), "src.addr="+own.String(), dst); len(lines) > 0 {
			return fmt.Errorf("still captured: %s", lines[0])
		}
		return nil
	})
	if finished, failed := load.Count(); failed > 0 || finished < 100 {
		t.Errorf("%d of %d requests failed: %v", failed, finished, load.Err())
	}
}

func TestPodOptsOutByItsOwnLabel(t *testing.T) {
	c := shared.use(t)
	t.Cleanup(func() {
		if err := c.LabelPod(near, demo.Label, ""); err != nil {
			t.Error(err)
		}
		if err := c.AwaitMeshed(context.Background(), true, near); err != nil {
			t.Error(err)
		}
	})
	if err := c.LabelPod(near, demo.Label, "none"); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitMeshed(t.Context(), false, near); err != nil {
		t.Fatal(err)
	}
	own, _ := ask(t, c, client, podAddr(c, near, 0, web), "x")
	checkLogs(t, c, route{client, near, 0, passed}, own)
}
