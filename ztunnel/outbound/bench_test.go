package outbound

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// BenchmarkDecide is the cost of a new connection's route, by the number of pods behind one service.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		table := populated(b, n)
		for _, to := range []struct{ name, addr string }{{"pod", "10.0.0.8:8080"}, {"service", "10.96.0.1:80"}, {"waypoint", "10.96.0.2:80"}, {"unknown", "192.0.2.1:443"}} {
			b.Run(fmt.Sprintf("%s/endpoints=%d", to.name, n), func(b *testing.B) {
				call := callTo(table, "pod0", to.addr)
				call.Open = new(balance.Open)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := call.Decide(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// populated is a mesh of n pods behind one service that prefers near ones, and behind the waypoint of another.
func populated(t testing.TB, n int) *state.Table {
	var text strings.Builder
	text.WriteString(`services:
- {name: web, namespace: demo, hostname: web.demo, vips: [/10.96.0.1], ports: {80: 8080, 15008: 15008}, loadBalancer: {mode: Failover, routingPreferences: [Network, Region, Zone]}}
- {name: via, namespace: demo, hostname: via.demo, vips: [/10.96.0.2], ports: {80: 8080}, waypoint: {destination: demo/web.demo, hboneMtlsPort: 15008}}
workloads:
`)
	for i := range n {
		fmt.Fprintf(&text, "- {uid: pod%d, name: pod%d, namespace: demo, workloadIps: [10.0.%d.%d], protocol: HBONE, locality: {region: r, zone: z%d}, services: {\"demo/web.demo\": {80: 8080, 15008: 15008}}}\n", i, i, i/250, i%250+1, i%3)
	}
	return tableOf(t, text.String())
}

// Allocations of a decision are the list of identities, and for unknown destinations none.
func TestDecideHardlyAllocates(t *testing.T) {
	table := populated(t, 100)
	for to, most := range map[string]float64{"10.0.0.8:8080": 1, "10.96.0.1:80": 1, "10.96.0.2:80": 1, "192.0.2.1:443": 0} {
		call := callTo(table, "pod0", to)
		call.Open = new(balance.Open)
		got := testing.AllocsPerRun(100, func() {
			if _, err := call.Decide(); err != nil {
				t.Error(err)
			}
		})
		if got > most {
			t.Errorf("to %s: %v allocations, want at most %v", to, got, most)
		}
	}
}
