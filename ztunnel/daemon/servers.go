package daemon

import (
	"fmt"
	"io"
	"net/http"

	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/scrape"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/dump"
)

// startServers opens readiness, metrics and administration, and returns what closes them.
func (z *ztunnel) startServers(levels *telemetry.Levels) (closeAll func(), err error) {
	var servers []*admin.Server
	closeAll = func() {
		for _, s := range servers {
			s.Close()
		}
	}
	metrics := http.NewServeMux()
	collect := scrape.Handler(z.reg, z.metrics.Expose)
	metrics.Handle("GET /metrics", collect)
	metrics.Handle("GET /stats/prometheus", collect)
	ready := http.NewServeMux()
	ready.Handle("GET /healthz/ready", &z.ready)
	for _, role := range []struct {
		name, addr string
		handler    http.Handler
	}{
		{"readiness", z.cfg.Listen.Ready, ready},
		{"metrics", z.cfg.Listen.Metrics, metrics},
		{"administration", z.cfg.Listen.Admin, admin.Pages("ztunnel", z.pages(levels))},
	} {
		s, err := admin.Start(admin.Config{Addr: role.addr, Handler: role.handler, Log: z.log})
		if err != nil {
			closeAll()
			return nil, fmt.Errorf("server of %s: %w", role.name, err)
		}
		servers = append(servers, s)
		z.log.Info("server", "of", role.name, "addr", s.Addrs()[0].String())
	}
	return closeAll, nil
}

func (z *ztunnel) pages(levels *telemetry.Levels) []admin.Page {
	return append(admin.Profiles(),
		admin.Logging(admin.Levels{Get: levels.String, Set: levels.Set, Reset: levels.Reset}),
		admin.Quit(func() { z.drain.Start("asked to by /quitquitquit") }),
		admin.Stream("/config_dump", "pods, connections, certificates, and the state of the mesh", func(w io.Writer) error { return dump.Write(w, z.dump()) }),
	)
}
