package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// Both ends of the same connection: the client's pod sends 10 bytes and gets 2000; and those that come to nothing.
func TestAccessLog(t *testing.T) {
	for _, format := range []string{"plain", "json"} {
		t.Run(format, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				m := telemetry.NewMetrics(prometheus.NewRegistry())
				m.LogAccess(telemetry.NewAccessLog(&out, format, levels(t, "info,access=debug")))

				outbound := m.Open(tunnelled(t, telemetry.Source))
				outbound.Follow(totals(10, 2000))
				time.Sleep(12 * time.Millisecond)
				outbound.Close(telemetry.FlagNone, nil)

				inbound := m.Open(tunnelled(t, telemetry.Destination))
				inbound.Follow(totals(2000, 10))
				time.Sleep(3 * time.Second)
				inbound.Close(telemetry.FlagNone, nil)

				direct := telemetry.Connection{
					Reporter: telemetry.Source,
					Source:   telemetry.Peer{CanonicalName: "frontend", Namespace: "shop", Identity: account(t, "frontend")},
					Src:      netip.MustParseAddrPort("[fd00::1]:43210"), Dst: netip.MustParseAddrPort("[fd00::2]:80"),
				}
				m.Open(direct).Close(telemetry.FlagConnect, errors.New("connect to [fd00::2]:80: connection refused"))

				denied := tunnelled(t, telemetry.Destination)
				denied.HBONEDst = "cart.shop.svc:80\t\"x\"\n"
				m.Open(denied).Close(telemetry.FlagDenied, errors.New("denied by policy shop/no-frontend"))

				m.Refuse(telemetry.Connection{
					Reporter: telemetry.Destination,
					Src:      netip.MustParseAddrPort("10.0.0.1:43210"), Dst: netip.MustParseAddrPort("10.0.1.2:15008"),
				}, telemetry.FlagTLS, errors.New("peer showed no certificate"))

				if format == "json" {
					for line := range strings.Lines(out.String()) {
						if !json.Valid([]byte(line)) {
							t.Errorf("not JSON: %s", line)
						}
					}
				}
				golden(t, "access_"+format+".golden", out.String())
			})
		})
	}
}

func TestAccessLogCanBeTurnedOffWhileRunning(t *testing.T) {
	var out bytes.Buffer
	l := levels(t, "info")
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	m.LogAccess(telemetry.NewAccessLog(&out, "plain", l))
	c := m.Open(tunnelled(t, telemetry.Source))
	if err := l.Set("access=off"); err != nil {
		t.Fatal(err)
	}
	c.Close(telemetry.FlagNone, nil)
	if out.Len() > 0 {
		t.Errorf("written: %s", out.String())
	}
}

func TestWithoutAccessLogConnectionsAreCountedAllTheSame(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := telemetry.NewMetrics(reg)
	m.Open(tunnelled(t, telemetry.Source)).Close(telemetry.FlagNone, nil)
	m.Refuse(tunnelled(t, telemetry.Source), telemetry.FlagDenied, nil)
	if got := value(t, collect(t, reg, m, ""), "istio_tcp_connections_opened_total"); got != 2 {
		t.Errorf("opened %v, want 2", got)
	}
}

// One connection with everything that telemetry does for it: counted, followed, ended, logged.
func BenchmarkConnectionWithAccessLog(b *testing.B) {
	for _, format := range []string{"plain", "json"} {
		b.Run(format, func(b *testing.B) {
			m := telemetry.NewMetrics(prometheus.NewRegistry())
			m.LogAccess(telemetry.NewAccessLog(discard{}, format, levels(b, "info")))
			info := tunnelled(b, telemetry.Source)
			counts := totals(100, 100)
			b.ReportAllocs()
			for b.Loop() {
				c := m.Open(info)
				c.Follow(counts)
				c.Close(telemetry.FlagNone, nil)
			}
		})
	}
}

// Several event loops open and close at once.
func BenchmarkConnectionsOfSeveralLoops(b *testing.B) {
	m := telemetry.NewMetrics(prometheus.NewRegistry())
	m.LogAccess(telemetry.NewAccessLog(discard{}, "plain", levels(b, "info")))
	info, counts := tunnelled(b, telemetry.Source), totals(100, 100)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c := m.Open(info)
			c.Follow(counts)
			c.Close(telemetry.FlagNone, nil)
		}
	})
}
