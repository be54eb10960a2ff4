package outbound

import (
	"net/netip"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// An endpoint to which connecting has failed is as good as any once a connection reached it, for which it was the only one.
func TestAnEndpointThatIsBackIsChosenAgain(t *testing.T) {
	table := tableOf(t, `
workloads:
- {uid: client, name: client, namespace: demo, workloadIps: [10.0.0.1], protocol: HBONE}
- {uid: a, name: a, namespace: demo, workloadIps: [10.0.0.2], protocol: TCP, services: {"demo/pair.demo": {80: 80}, "demo/alone.demo": {80: 80}}}
- {uid: b, name: b, namespace: demo, workloadIps: [10.0.0.3], protocol: TCP, services: {"demo/pair.demo": {80: 80}}}
services:
- {name: pair, namespace: demo, hostname: pair.demo, vips: [/10.1.0.1], ports: {80: 80}}
- {name: alone, namespace: demo, hostname: alone.demo, vips: [/10.1.0.2], ports: {80: 80}}
`)
	open := new(balance.Open)
	decide := func(to string) (*Call, Route) {
		call := callTo(table, "client", to)
		call.Open = open
		r, err := call.Decide()
		if err != nil {
			t.Fatal(err)
		}
		return call, r
	}
	chosen := func() bool { // of many times once
		for range 50 {
			if _, r := decide("10.1.0.1:80"); r.Workload.UID == "a" {
				return true
			}
		}
		return false
	}
	call, failed := decide("10.1.0.2:80")
	_, _ = call.Next(&failed) // there is no other
	if chosen() {
		t.Fatal("it is chosen although it has just failed")
	}

	l, err := loop.Manual()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	app, server := socketPair(t), socketPair(t)
	var reached func(fd int, err error)
	h := New(Config{
		Known: func(table *state.Table) *state.Workload { return table.Workload("client") }, Table: func() *state.Table { return table },
		Dial: func(_ *worker.Worker, _ netip.AddrPort, done func(fd int, err error)) (*worker.Dialling, error) {
			reached = done
			return &worker.Dialling{}, nil
		},
		Registry: capture.NewRegistry(nil), Open: open, Metrics: telemetry.NewMetrics(prometheus.NewRegistry()),
	})
	h.Handle(t.Context(), capture.Conn{
		Worker: &worker.Worker{Loop: l}, FD: app[0], Client: capture.Client{AddrPort: netip.MustParseAddrPort("10.0.0.1:40000")},
		Original: capture.OriginalDst{AddrPort: netip.MustParseAddrPort("10.1.0.2:80")},
	})
	reached(server[0], nil)
	unix.Close(app[1])
	unix.Close(server[1])
	for range 10 { // until the relay has let go of its ends
		l.Turn()
	}
	if !chosen() {
		t.Error("it is shunned although a connection has reached it")
	}
}

// socketPair is two ends of a connection.
func socketPair(t *testing.T) [2]int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
