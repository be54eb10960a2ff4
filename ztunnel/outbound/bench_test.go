package outbound

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// BenchmarkDecide is the cost of a new connection's route, in a mesh of 1,000 pods behind one service.
func BenchmarkDecide(b *testing.B) {
	var text strings.Builder
	text.WriteString("services:\n- {name: web, namespace: demo, hostname: web.demo, vips: [/10.96.0.1], ports: {80: 8080}}\nworkloads:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "- {uid: pod%d, name: pod%d, namespace: demo, workloadIps: [10.0.%d.%d], protocol: HBONE, services: {\"demo/web.demo\": {80: 8080}}}\n", i, i, i/250, i%250+1)
	}
	update, err := state.Read([]byte(text.String()))
	if err != nil {
		b.Fatal(err)
	}
	store := state.NewStore()
	if err := store.Apply(update); err != nil {
		b.Fatal(err)
	}
	from := store.Load().Workload("pod0")
	for name, to := range map[string]string{"pod": "10.0.3.7:8080", "service": "10.96.0.1:80", "unknown": "192.0.2.1:443"} {
		dst := capture.OriginalDst{AddrPort: netip.MustParseAddrPort(to)}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decide(store.Load(), from, dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
