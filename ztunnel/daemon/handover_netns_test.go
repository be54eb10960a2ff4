package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/handover"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// handOver enrols a pod with the listeners that are given, which it closes, and returns those that ztunnel has.
func (a *agent) handOver(p *testPod, given socket.Given) socket.Given {
	a.t.Helper()
	if a.conn == nil {
		a.accept()
	}
	file := p.File()
	defer file.Close()
	defer given.Close()
	list, files := handover.Pack(given)
	data, err := proto.Marshal(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Add{Add: &zds.AddWorkload{
		Uid: p.name + "-uid", WorkloadInfo: &zds.WorkloadInfo{Name: p.name, Namespace: "demo", ServiceAccount: p.name}, HandOver: true, Listeners: list,
	}}})
	if err == nil {
		err = handover.Send(a.conn, data, append([]int{int(file.Fd())}, files...)...)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.conn.SetReadDeadline(time.Now().Add(patience))
	packet, err := handover.Receive(a.conn)
	if err != nil {
		a.t.Fatal(err)
	}
	var response zds.WorkloadResponse
	if err := proto.Unmarshal(packet.Data, &response); err != nil || response.GetAck().GetError() != "" {
		a.t.Fatalf("answer %v, %v", &response, err)
	}
	back, err := handover.Unpack(response.GetAck().GetListeners(), packet.Files)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(back.Close)
	return back
}

func (a *agent) stop(p *testPod) string {
	a.t.Helper()
	return a.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Stop{Stop: &zds.StopWorkload{Uid: p.name + "-uid"}}}, nil)
}

// tunnels counts the connections from a pod to port 15008 of an address.
func tunnels(t *testing.T, from *testPod, to netip.Addr) (count int) {
	t.Helper()
	b := to.As4()
	remote := fmt.Sprintf("%02X%02X%02X%02X:3AA0", b[3], b[2], b[1], b[0])
	var table []byte
	err := from.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/tcp")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[2] == remote && fields[3] == "01" {
			count++
		}
	}
	return count
}

// A ztunnel that gets an earlier one's listeners accepts on the very same sockets, and nothing is refused when the other ends.
func TestNewZtunnelTakesListenersOver(t *testing.T) {
	m := newMesh(t)
	m.env = []string{"ISTIO_META_DNS_CAPTURE=true"}
	m.up(m.client)
	m.describe(m.server, nil)
	m.server.serve(t, 8080)
	capturePod(t, m.server.Namespace)
	before := startNode(t, m.config(m.server))
	kept := before.agent.handOver(m.server, nil)
	if got := fmt.Sprint(kept.Ports()); got != "[tcp 127.0.0.1:15053 tcp [::1]:15053 tcp [::]:15001 tcp [::]:15006 tcp [::]:15008 udp 127.0.0.1:15053 udp [::1]:15053]" {
		t.Errorf("hands over %s", got)
	}
	to := netip.AddrPortFrom(m.server.v4, 8080)
	held := mustCall(t, m.client, to)
	stop, failed := make(chan struct{}), make(chan error, 100)
	var load sync.WaitGroup
	for _, from := range []*testPod{m.client, m.outside, m.client, m.outside} {
		load.Go(func() {
			for {
				_, conn, err := from.call(to)
				if err != nil {
					failed <- fmt.Errorf("%s: %w", from.name, err)
					return
				}
				conn.Close()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 3 {
		after := startNode(t, m.config(m.server))
		copied, err := kept.Copy()
		if err != nil {
			t.Fatal(err)
		}
		if now := after.agent.handOver(m.server, copied); now.Key() != kept.Key() {
			t.Errorf("the new one accepts on %s, not on %s", now.Key(), kept.Key())
		}
		after.agent.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}}, nil)
		after.waitReady()
		before.drain.Start("test")
		if held != nil {
			alive(t, held)
			held.Close()
			held = nil
		}
		if err := before.wait(); err != nil {
			t.Error(err)
		}
		before = after
	}
	close(stop)
	load.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
}

// Listeners that a ztunnel with other settings can't use are left aside.
func TestZtunnelWithOtherSettingsOpensItsOwn(t *testing.T) {
	m := newMesh(t)
	m.describe(m.server, nil)
	first := startNode(t, m.config(m.server))
	kept := first.agent.handOver(m.server, nil)
	cfg := m.config(m.server)
	cfg.Sockets.IPv6 = false
	second := startNode(t, cfg)
	if got := fmt.Sprint(second.agent.handOver(m.server, kept).Ports()); got != "[tcp 0.0.0.0:15001 tcp 0.0.0.0:15006 tcp 0.0.0.0:15008]" {
		t.Errorf("accepts on %s", got)
	}
}

// Before a pod's network goes, the peers of its tunnels are told, so that none of them asks a tunnel that leads nowhere.
func TestStoppingPodSaysGoodbye(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	m.client.serve(t, 8080)
	to := netip.AddrPortFrom(m.server.v4, 8080)
	for _, p := range []*testPod{m.server, m.client} {
		conn := mustCall(t, p, netip.AddrPortFrom(map[*testPod]*testPod{m.server: m.client, m.client: m.server}[p].v4, 8080))
		conn.Close()
	}
	running := mustCall(t, m.client, to)
	if in, out := tunnels(t, m.client, m.server.v4), tunnels(t, m.server, m.client.v4); in == 0 || out == 0 {
		t.Fatalf("%d tunnels to the pod, %d from it", in, out)
	}
	if text := m.server.node.agent.stop(m.server); text != "" {
		t.Fatal(text)
	}
	eventually(t, "close the tunnels from the pod", func() bool { return tunnels(t, m.server, m.client.v4) == 0 })
	alive(t, running)
	running.Close()
	began := time.Now()
	eventually(t, "close the tunnels to the pod", func() bool { return tunnels(t, m.client, m.server.v4) == 0 })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("that took %s: pings would have found it out", took)
	}
	if text := m.server.node.agent.del(m.server); text != "" {
		t.Fatal(text)
	}
}

// Peers that carry nothing leave before the pod is removed.
func TestStoppingIdlePodIsLeftByItsPeers(t *testing.T) {
	m := newMesh(t)
	m.up(m.client, m.server)
	m.server.serve(t, 8080)
	conn := mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080))
	conn.Close()
	m.server.node.waitLog("connection complete")
	if text := m.server.node.agent.stop(m.server); text != "" {
		t.Fatal(text)
	}
	eventually(t, "close the tunnels to the pod", func() bool { return tunnels(t, m.client, m.server.v4) == 0 })
}

// A tunnel isn't kept for a workload that is no more, or that is another one now; what it carries goes on.
func TestTunnelsGoWithTheWorkload(t *testing.T) {
	for name, change := range map[string]func(*mesh){
		"removed": func(m *mesh) {
			m.istiod.Remove("type.googleapis.com/istio.workload.Address", "Kubernetes//Pod/demo/server")
		},
		"another identity": func(m *mesh) {
			m.describe(m.server, func(w *workload.Workload) { w.ServiceAccount = "other" })
		},
		"another workload at the address": func(m *mesh) {
			m.istiod.Remove("type.googleapis.com/istio.workload.Address", "Kubernetes//Pod/demo/server")
			m.describe(m.server, func(w *workload.Workload) { w.Uid = "Kubernetes//Pod/demo/server-again" })
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			m.up(m.client, m.server)
			m.server.serve(t, 8080)
			idle := mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080))
			m.describe(m.outside, nil) // what only comes changes nothing
			m.describe(m.server, func(w *workload.Workload) { w.CanonicalRevision = "v2" })
			m.client.node.waitWorkload("v2")
			alive(t, idle)
			change(m)
			m.sync()
			alive(t, idle)
			idle.Close()
			eventually(t, "let the tunnel go", func() bool { return tunnels(t, m.client, m.server.v4) == 0 })
		})
	}
}
