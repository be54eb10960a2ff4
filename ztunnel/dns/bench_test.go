package dns

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// One question for a name of the mesh after the other, by UDP: with both ends' system calls.
func BenchmarkQuestion(b *testing.B) {
	store := state.NewStore()
	text, err := os.ReadFile("testdata/mesh.yaml")
	if err != nil {
		b.Fatal(err)
	}
	update, err := state.Read(text)
	if err == nil {
		err = store.Apply(update)
	}
	if err != nil {
		b.Fatal(err)
	}
	node := NewNode(Config{Store: store, Metrics: telemetry.NewDNS(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler), Domain: "cluster.local"})
	pod := node.Pod(PodConfig{Name: "client", Namespace: "ns1", Own: &ResolvConf{},
		Known: func(t *state.Table) *state.Workload { return t.ByPod("ns1", "client", "client") }})
	defer pod.Close()
	if err := pod.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, nil); err != nil {
		b.Fatal(err)
	}
	conn, err := net.Dial("udp", pod.sockets.udp[0].LocalAddr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	wire := packed(b, new(dns.Msg).SetQuestion("details.ns1.svc.cluster.local.", dns.TypeA))
	buffer := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(wire); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Read(buffer); err != nil {
			b.Fatal(err)
		}
	}
}
