package outbound

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/worker"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// Whatever a connection waits for, its application hears after half a minute that nothing came of it, and nothing stays behind.
func TestConnectionsThatWaitTooLongAreRefused(t *testing.T) {
	silent := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, known := range map[string]bool{"for the pod's name": false, "for an endpoint's address": true} {
		t.Run(name, func(t *testing.T) {
			table := tableOf(t, world)
			synctest.Test(t, func(t *testing.T) {
				l, err := loop.Manual()
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(pair[1])
				registry, open, metrics := capture.NewRegistry(nil), new(balance.Open), telemetry.NewMetrics(prometheus.NewRegistry())
				h := New(Config{
					Known: func(table *state.Table) *state.Workload {
						if known {
							return table.Workload("client")
						}
						return nil
					},
					Self:     func(ctx context.Context) (*state.Workload, error) { return nil, silent(ctx) },
					Table:    func() *state.Table { return table },
					Resolve:  func(ctx context.Context, _ string) ([]netip.Addr, error) { return nil, silent(ctx) },
					Registry: registry, Open: open, Metrics: metrics,
				})
				h.Handle(t.Context(), capture.Conn{
					Worker: &worker.Worker{Loop: l}, FD: pair[0], Client: capture.Client{AddrPort: netip.MustParseAddrPort("10.0.0.1:40000")},
					Original: capture.OriginalDst{AddrPort: netip.MustParseAddrPort("10.1.0.4:443")},
				})
				pass := func(d time.Duration) (n int, err error) {
					time.Sleep(d)
					synctest.Wait()
					l.Turn()
					synctest.Wait()
					l.Turn() // what was waiting has been told
					return unix.Read(pair[1], make([]byte, 1))
				}
				if n, err := pass(connectTimeout - time.Millisecond); err != unix.EAGAIN {
					t.Errorf("the application is told %d, %v too early", n, err)
				}
				if n, err := pass(time.Millisecond); n != 0 || err != nil {
					t.Errorf("the application is told %d, %v; want an end", n, err)
				}
				if left := registry.List(capture.Outbound); len(left) != 0 {
					t.Errorf("still registered: %v", left)
				}
			})
		})
	}
}
