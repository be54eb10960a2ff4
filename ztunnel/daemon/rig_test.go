package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeistiod"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

func TestMain(m *testing.M) {
	if place := os.Getenv(loadEnv); place != "" {
		if err := loadMesh(place, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	beProcess()
	goleak.VerifyTestMain(m)
}

const patience = 10 * time.Second // of every wait in these tests

// mesh is a control plane with two nodes; on each a pod, joined by a link. A third machine knows nothing of the mesh.
type mesh struct {
	t              *testing.T
	ca             *testca.CA
	istiod         *fakeistiod.Server
	client, server *testPod
	outside        *testPod
	tracing        settings.Tracing
	env            []string // of every node, beside what the rig needs
}

// testPod is a pod, with the ztunnel of its node.
type testPod struct {
	*netns.Namespace
	name   string
	v4, v6 netip.Addr
	node   *node
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{t: t}
	for i, p := range []**testPod{&m.client, &m.server, &m.outside} {
		*p = &testPod{
			Namespace: netns.New(t, "tulle-ztunnel-test"), name: []string{"client", "server", "outside"}[i],
			v4: netip.AddrFrom4([4]byte{10, 91, 0, byte(i + 1)}), v6: netip.MustParseAddr(fmt.Sprintf("fd91::%d", i+1)),
		}
	}
	m.link(m.client, m.server, "eth0")
	m.link(m.client, m.outside, "eth1")
	m.link(m.server, m.outside, "eth2")
	m.ca = testca.New(t, "cluster.local")
	m.istiod = fakeistiod.New(t, m.ca)
	return m
}

// link joins two pods by their own addresses.
func (m *mesh) link(a, b *testPod, name string) {
	host := func(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
	netns.Connect(a.Namespace, b.Namespace, name, []netip.Prefix{host(a.v4), host(a.v6)}, []netip.Prefix{host(b.v4), host(b.v6)})
	a.Neighbour(name, host(b.v4), host(b.v6))
	b.Neighbour(name, host(a.v4), host(a.v6))
}

// describe tells the control plane of a pod.
func (m *mesh) describe(p *testPod, change func(*workload.Workload)) {
	w := &workload.Workload{
		Uid: "Kubernetes//Pod/demo/" + p.name, Name: p.name, Namespace: "demo", ServiceAccount: p.name, TrustDomain: "cluster.local",
		Addresses: [][]byte{p.v4.AsSlice(), p.v6.AsSlice()}, TunnelProtocol: workload.TunnelProtocol_HBONE, Node: p.name + "-node",
		CanonicalName: p.name, CanonicalRevision: "v1", WorkloadName: p.name, ClusterId: "Kubernetes",
	}
	if change != nil {
		change(w)
	}
	m.istiod.Set(w)
}

// describeOn is describe for a pod of another node than its own.
func (m *mesh) describeOn(p *testPod, node string) {
	m.describe(p, func(w *workload.Workload) { w.Node = node })
}

// up starts a ztunnel for each of the pods, enrols them and waits for all to be ready.
func (m *mesh) up(pods ...*testPod) {
	m.t.Helper()
	for _, p := range pods {
		m.describe(p, nil)
		capturePod(m.t, p.Namespace)
		p.node = startNode(m.t, m.config(p))
		p.node.enrol(p)
	}
	for _, p := range pods {
		p.node.waitReady()
	}
}

func (m *mesh) config(p *testPod) config.Config {
	m.t.Helper()
	cfg, err := config.FromEnv(append([]string{
		"NODE_NAME=" + p.name + "-node", "XDS_ADDRESS=" + m.istiod.Address(), "XDS_ROOT_CA=" + m.istiod.RootFile(),
		"CA_ADDRESS=" + m.istiod.Address(), "CA_ROOT_CA=" + m.istiod.RootFile(), "INPOD_UDS=" + filepath.Join(m.t.TempDir(), "zds.sock"),
		"RUST_LOG=debug",
	}, m.env...))
	if err != nil {
		m.t.Fatal(err)
	}
	cfg.Listen = config.Listen{Admin: "localhost:0", Metrics: "127.0.0.1:0", Ready: "127.0.0.1:0"}
	cfg.Tracing = m.tracing
	return cfg
}

// sync waits until every node has what the control plane was told.
func (m *mesh) sync() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	if err := m.istiod.Sync(ctx, 1); err != nil {
		m.t.Fatal(err)
	}
}

// node is a running ztunnel with a node agent.
type node struct {
	t     *testing.T
	drain *drain.Drain // nil for a process
	pid   int          // of a process
	log   *logBuffer
	ended chan error
	agent *agent
}

func startNode(t *testing.T, cfg config.Config) *node {
	t.Helper()
	n := &node{t: t, drain: drain.New(cfg.DrainTimeout), log: &logBuffer{}, ended: make(chan error, 1), agent: newAgent(t, cfg.ZDS)}
	go func() { n.ended <- serve(n.drain, cfg, "test", n.log) }()
	t.Cleanup(func() {
		n.drain.Force("test over")
		if err := n.wait(); err != nil {
			t.Errorf("ztunnel ended: %v", err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", cfg.Node, n.log)
		}
	})
	return n
}

// waitLog waits for a line with all of these words.
func (n *node) waitLog(words ...string) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("log %q", words), func() bool {
		for line := range strings.Lines(n.log.String()) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				return true
			}
		}
		return false
	})
}

// metric sums the series of a name that have all of these labels.
func (n *node) metric(name string, labels ...string) float64 {
	n.t.Helper()
	_, text := n.get("metrics", "/metrics")
	var sum float64
	for line := range strings.Lines(text) {
		if (!strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ")) || slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains(line, label) }) {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err != nil {
			n.t.Errorf("metric %q: %v", line, err)
		}
		sum += value
	}
	return sum
}

// wait returns how ztunnel ended.
func (n *node) wait() error {
	n.t.Helper()
	select {
	case err := <-n.ended:
		n.ended <- nil
		return err
	case <-time.After(patience):
		return errors.New("it didn't end")
	}
}

func (n *node) enrol(p *testPod) {
	n.t.Helper()
	if text := n.agent.add(p); text != "" {
		n.t.Fatalf("enrol %s: %s\n%s", p.name, text, n.log)
	}
	n.agent.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}}, nil)
}

func (n *node) waitReady() {
	n.t.Helper()
	n.eventually("be ready", func() bool { status, _ := n.get("readiness", "/healthz/ready"); return status == 200 })
}

// get asks one of ztunnel's own servers.
func (n *node) get(server, path string) (int, string) {
	n.t.Helper()
	addr := n.server(server)
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + addr + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		n.t.Error(err)
	}
	return response.StatusCode, string(text)
}

// server finds an address in the log, as a user would.
func (n *node) server(name string) string {
	n.t.Helper()
	var addr string
	n.eventually("open its server of "+name, func() bool {
		for line := range strings.Lines(n.log.String()) {
			if strings.Contains(line, "\tserver\t") && strings.Contains(line, name) {
				_, addr, _ = strings.Cut(strings.TrimSpace(line), "addr=")
				addr = strings.Trim(addr, `"`)
				return true
			}
		}
		return false
	})
	return addr
}

func (n *node) eventually(what string, condition func() bool) {
	n.t.Helper()
	eventually(n.t, what, condition)
}

// eventually asks again and again; most conditions here are other processes' and can't be waited for.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain to %s", what)
		}
	}
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// agent is the node agent's side of ZDS.
type agent struct {
	t        *testing.T
	listener *net.UnixListener
	conn     *net.UnixConn
}

func newAgent(t *testing.T, path string) *agent {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, listener: l}
	t.Cleanup(func() {
		l.Close()
		if a.conn != nil {
			a.conn.Close()
		}
	})
	return a
}

// accept waits for ztunnel and its hello.
func (a *agent) accept() {
	a.t.Helper()
	a.listener.SetDeadline(time.Now().Add(patience))
	conn, err := a.listener.AcceptUnix()
	if err != nil {
		a.t.Fatal(err)
	}
	a.conn = conn
	var hello zds.ZdsHello
	a.read(&hello)
}

func (a *agent) read(message proto.Message) {
	a.t.Helper()
	a.conn.SetReadDeadline(time.Now().Add(patience))
	buffer := make([]byte, 1024)
	n, err := a.conn.Read(buffer)
	if err == nil {
		err = proto.Unmarshal(buffer[:n], message)
	}
	if err != nil {
		a.t.Fatalf("agent reads: %v", err)
	}
}

// send makes a request and returns the acknowledgement's error text.
func (a *agent) send(request *zds.WorkloadRequest, file *os.File) string {
	a.t.Helper()
	if a.conn == nil {
		a.accept()
	}
	data, err := proto.Marshal(request)
	if err != nil {
		a.t.Fatal(err)
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	if _, _, err := a.conn.WriteMsgUnix(data, rights, nil); err != nil {
		a.t.Fatal(err)
	}
	var response zds.WorkloadResponse
	a.read(&response)
	return response.GetAck().GetError()
}

func (a *agent) add(p *testPod) string {
	a.t.Helper()
	file := p.File()
	defer file.Close()
	return a.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Add{Add: &zds.AddWorkload{
		Uid: p.name + "-uid", WorkloadInfo: &zds.WorkloadInfo{Name: p.name, Namespace: "demo", ServiceAccount: p.name},
	}}}, file)
}

func (a *agent) del(p *testPod) string {
	a.t.Helper()
	return a.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Del{Del: &zds.DelWorkload{Uid: p.name + "-uid"}}}, nil)
}

// app is a server application in a pod that tells who calls it, then echoes.
type app struct {
	listener *net.TCPListener
	group    sync.WaitGroup
}

func (p *testPod) serve(t *testing.T, port uint16) *app {
	t.Helper()
	l, err := p.Listen(socket.ListenConfig{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	if err != nil {
		t.Fatal(err)
	}
	a := &app{listener: l}
	a.group.Go(func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			a.group.Go(func() {
				defer conn.Close()
				fmt.Fprintf(conn, "%s\n", socket.Unmap(conn.RemoteAddr()).Addr())
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); a.group.Wait() })
	return a
}

// call connects to an app, exchanges a few bytes and returns whom the app saw.
func (p *testPod) call(to netip.AddrPort) (seen string, conn *net.TCPConn, err error) {
	return p.callFor(to, patience)
}

// callFor is call with a patience of its own.
func (p *testPod) callFor(to netip.AddrPort, patience time.Duration) (seen string, conn *net.TCPConn, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err = p.Dial(ctx, to, socket.DialConfig{})
	if err != nil {
		return "", nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err = conn.Write([]byte("ping\n")); err == nil {
		seen, err = readLine(conn)
	}
	var echo string
	if err == nil {
		echo, err = readLine(conn)
	}
	if err == nil && echo != "ping" {
		err = fmt.Errorf("echo %q", echo)
	}
	if err != nil {
		conn.Close()
		return "", nil, err
	}
	return seen, conn, nil
}

// scrape asks for a metrics page from inside the pod.
func (p *testPod) scrape(t *testing.T, from netip.AddrPort) string {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.Dial(ctx, from, socket.DialConfig{})
		},
	}}
	response, err := client.Get("http://" + from.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("scrape %s: %s, %v", from, response.Status, err)
	}
	return string(text)
}

func readLine(conn net.Conn) (string, error) {
	var line []byte
	for one := make([]byte, 1); ; line = append(line, one[0]) {
		if _, err := io.ReadFull(conn, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
	}
}

// waitWorkload waits until a node knows something that it can only have from the control plane.
func (n *node) waitWorkload(word string) {
	n.t.Helper()
	n.eventually("hear of "+word, func() bool {
		_, text := n.get("administration", "/config_dump")
		return strings.Contains(text, `"`+word+`"`)
	})
}

// established tells that somebody is connected to ztunnel in the pod.
func established(t *testing.T, p *testPod) bool {
	t.Helper()
	var table []byte
	err := p.Do(func() error {
		var err error
		table, err = os.ReadFile("/proc/thread-self/net/tcp6")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", 15006)) && fields[3] == "01" {
			return true
		}
	}
	return false
}
