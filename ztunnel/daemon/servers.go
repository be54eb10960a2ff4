package daemon

import (
	"io"
	"net/http"

	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/scrape"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/ztunnel/dump"
)

// startServers opens readiness, metrics and administration, and returns what closes them.
func (z *ztunnel) startServers(levels *telemetry.Levels) (closeAll func(), err error) {
	metrics := http.NewServeMux()
	collect := scrape.Handler(z.reg, z.metrics.Expose)
	metrics.Handle("GET /metrics", collect)
	metrics.Handle("GET /stats/prometheus", collect)
	ready := http.NewServeMux()
	ready.Handle("GET /healthz/ready", &z.ready)
	return admin.StartAll([]admin.Role{
		{Name: "readiness", Addr: z.cfg.Listen.Ready, Handler: ready},
		{Name: "metrics", Addr: z.cfg.Listen.Metrics, Handler: metrics},
		{Name: "administration", Addr: z.cfg.Listen.Admin, Handler: admin.Pages("ztunnel", z.pages(levels))},
	}, z.log)
}

func (z *ztunnel) pages(levels *telemetry.Levels) []admin.Page {
	return append(admin.Profiles(),
		admin.Logging(admin.Levels{Get: levels.String, Set: levels.Set, Reset: levels.Reset}),
		admin.Quit(func() { z.drain.Start("asked to by /quitquitquit") }),
		admin.Stream("/config_dump", "pods, connections, certificates, and the state of the mesh", func(w io.Writer) error { return dump.Write(w, z.dump()) }),
	)
}
