package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
	"github.com/tulle-mesh/tulle/mesh/meshtest/iptables"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// The pods of the shared cluster. Those of namespace app are meshed, those of namespace plain are not.
const (
	client   = "client"   // app, node1
	near     = "near"     // app, node1: a server beside the client
	far      = "far"      // app, node2: a server on the other node
	stranger = "stranger" // plain, node1
	outpost  = "outpost"  // plain, node2: a server without the mesh
	annex    = "annex"    // plain, node1: where a second ztunnel of the node can run
	world    = "fabric"   // no pod at all: the world outside
)

// Ports: web is the sample application, raw is for a test's own server.
const (
	web = 8080
	raw = 9000
)

// slow is the patience with things that take no time on an idle machine.
const slow = 40 * time.Second

func sharedSpec(dir, engine string) demo.Spec {
	pod := func(name, namespace, node string, served bool) demo.Pod {
		p := demo.Pod{Name: name, Namespace: namespace, Account: name, Node: node, Labels: map[string]string{"app": name}}
		if served {
			p.Command = []string{programs.Tulle, "app", "backend", "--version", name}
		}
		return p
	}
	service := func(name, namespace string) demo.Service {
		return demo.Service{Name: name, Namespace: namespace, Selector: map[string]string{"app": name}, Ports: map[uint16]uint16{80: web, raw: raw}}
	}
	return demo.Spec{
		Name: mine() + strings.ReplaceAll(engine, "-", ""), Dir: dir, Programs: programs, Engine: engine,
		Nodes: []string{"node1", "node2"},
		Pods: []demo.Pod{
			pod(client, "app", "node1", true), pod(near, "app", "node1", true), pod(far, "app", "node2", true),
			pod(stranger, "plain", "node1", false), pod(outpost, "plain", "node2", true), pod(annex, "plain", "node1", false),
		},
		Services: []demo.Service{service(client, "app"), service(near, "app"), service(far, "app"), service(outpost, "plain")},
		DNS:      true,
		Say:      func(line string) { fmt.Println("  " + line) },
	}
}

// shared is one cluster for all tests that leave it as they found it. Its pods are captured by the best engine; those of rewriting by
// nft, those of last by the one for old kernels.
var shared, rewriting, last = sharedCluster{}, sharedCluster{engine: "nft"}, sharedCluster{engine: "iptables-nft"}

type sharedCluster struct {
	engine  string
	once    sync.Once
	cluster *demo.Cluster
	err     error
}

// use returns the shared cluster with namespace app meshed. The first test to call it waits for that.
func (s *sharedCluster) use(t *testing.T) *demo.Cluster {
	t.Helper()
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		s.cluster, s.err = demo.Up(ctx, sharedSpec(filepath.Join(filepath.Dir(programs.Tulle), "shared"+s.engine), s.engine))
		if s.err == nil {
			s.err = s.cluster.LabelNamespace("app", demo.Label, demo.Ambient)
		}
		if s.err == nil {
			s.err = s.cluster.AwaitMeshed(ctx, true, client, near, far)
		}
	})
	if s.err != nil {
		t.Fatalf("the cluster for this test: %v", s.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, s.cluster)
		}
	})
	return s.cluster
}

// lastToo runs a test of what every engine has to do with the one for old kernels besides.
func lastToo(t *testing.T, test func(t *testing.T, c *demo.Cluster)) {
	eachEngine(t, test)
	t.Run("iptables", func(t *testing.T) {
		iptables.Need(t)
		test(t, last.use(t))
	})
}

// eachEngine runs a test with every engine of today's kernels.
func eachEngine(t *testing.T, test func(t *testing.T, c *demo.Cluster)) {
	t.Run("ebpf", func(t *testing.T) { test(t, shared.use(t)) })
	t.Run("nft", func(t *testing.T) { test(t, rewriting.use(t)) })
}

// end takes the cluster down and reports what its programs complained about.
func (s *sharedCluster) end() error {
	if s.cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	for _, race := range races(s.cluster) {
		errs = append(errs, errors.New(race))
	}
	return errors.Join(append(errs, s.cluster.Down(ctx))...)
}

// showLogs prints the ends of the programs' logs, for a test that failed.
func showLogs(t *testing.T, cluster *demo.Cluster) {
	for _, name := range []string{demo.Istiod, demo.Agent("node1"), demo.Ztunnel("node1"), demo.Agent("node2"), demo.Ztunnel("node2")} {
		lines, err := cluster.LogLines(name)
		if err != nil {
			t.Log(err)
			continue
		}
		t.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-12):], "\n"))
	}
}

// podAddr is a pod's address of a family (0: IPv4, 1: IPv6) with a port; vip is its service's.
func podAddr(c *demo.Cluster, pod string, family int, port uint16) netip.AddrPort {
	if pod == world {
		return netip.AddrPortFrom(demo.FabricAddrs()[family], port)
	}
	return netip.AddrPortFrom(c.PodAddrs(pod)[family], port)
}

func vip(c *demo.Cluster, service string, family int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(c.VIPs(service)[family], port)
}

// serve runs a server of the test's own in a pod (or outside of the mesh) until the test ends. Each connection gets its
// goroutine, which the cleanup waits for; the connections are closed then.
func serve(t *testing.T, c *demo.Cluster, place string, port uint16, handle func(*net.TCPConn)) {
	t.Helper()
	netns, err := c.Netns(place)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := netns.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.Map
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			conns.Store(conn, nil)
			handlers.Go(func() {
				defer conns.Delete(conn)
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		conns.Range(func(conn, _ any) bool { conn.(*net.TCPConn).Close(); return true })
		handlers.Wait()
	})
}

// dial connects from a pod, and fails the test where that doesn't work.
func dial(t *testing.T, c *demo.Cluster, from string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	conn, err := c.Dial(ctx, from, to)
	if err != nil {
		t.Fatalf("from %s: %v", from, err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(slow)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// eventually waits for a check to pass.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	if err := demo.AwaitWithin(t.Context(), slow, what, check); err != nil {
		t.Fatal(err)
	}
}

// logged waits for a line with all of the words in a program's log; a failure shows the lines with the second of them.
func logged(t *testing.T, c *demo.Cluster, process string, words ...string) string {
	t.Helper()
	var line string
	eventually(t, fmt.Sprintf("a line with %q in the log of %s", words, process), func(context.Context) error {
		lines, err := c.LogLines(process, words...)
		if err == nil && len(lines) == 0 {
			similar, _ := c.LogLines(process, words[:min(2, len(words))]...)
			err = fmt.Errorf("there is none, but\n%s", strings.Join(similar[max(0, len(similar)-5):], "\n"))
		}
		if err == nil {
			line = lines[len(lines)-1]
		}
		return err
	})
	return line
}

// reaches tells whether one pod gets an answer of the sample application from an address.
func reaches(ctx context.Context, c *demo.Cluster, from string, to netip.AddrPort) error {
	_, err := c.Get(ctx, from, "http://"+to.String()+"/")
	return err
}

// refused waits until requests fail.
func refused(t *testing.T, c *demo.Cluster, from string, to netip.AddrPort) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s to be refused by %s", from, to), func(ctx context.Context) error {
		if reaches(ctx, c, from, to) == nil {
			return errors.New("it's still served")
		}
		return nil
	})
}

// served waits until requests succeed.
func served(t *testing.T, c *demo.Cluster, from string, to netip.AddrPort) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s to be served by %s", from, to), func(ctx context.Context) error { return reaches(ctx, c, from, to) })
}

// apply puts a policy file into the mesh folder for the time of a test, and waits until the ztunnels know.
func apply(t *testing.T, c *demo.Cluster, name, yaml string, policies int) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Withdraw(name); err != nil {
			t.Error(err)
		}
		if err := c.AwaitPolicies(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
	if err := c.Apply(name, yaml); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitPolicies(t.Context(), policies); err != nil {
		t.Fatal(err)
	}
}

// ends reads until the other side ends the connection, and returns what came; a reset is an end too.
func ends(t *testing.T, conn *net.TCPConn) []byte {
	t.Helper()
	got, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("%s doesn't end the connection", conn.RemoteAddr())
	}
	return got
}
