package daemon

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/scrape"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// startServers opens readiness, metrics and administration, and returns what closes them.
func (w *waypoint) startServers(levels *telemetry.Levels) (closeAll func(), err error) {
	collect := scrape.Handler(w.reg, w.metrics.Expose)
	metrics, stats, ready := http.NewServeMux(), http.NewServeMux(), http.NewServeMux()
	metrics.Handle("GET /metrics", collect)
	metrics.Handle("GET /stats/prometheus", collect)
	stats.Handle("GET /stats/prometheus", collect)
	ready.Handle("GET /healthz/ready", &w.ready)
	return admin.StartAll([]admin.Role{
		{Name: "readiness", Addr: w.cfg.Listen.Ready, Handler: ready},
		{Name: "metrics", Addr: w.cfg.Listen.Metrics, Handler: metrics},
		{Name: "metrics", Addr: w.cfg.Listen.Stats, Handler: stats},
		{Name: "administration", Addr: w.cfg.Listen.Admin, Handler: admin.Pages("waypoint", w.pages(levels))},
	}, w.log)
}

func (w *waypoint) pages(levels *telemetry.Levels) []admin.Page {
	return append(admin.Profiles(),
		admin.Logging(admin.Levels{Get: levels.String, Set: levels.Set, Reset: levels.Reset}),
		admin.Quit(func() { w.drain.Start("asked to by /quitquitquit") }),
		admin.Stream("/config_dump", "services, workloads, policies, certificates", w.dump),
	)
}

// dump writes what decides, at one moment.
func (w *waypoint) dump(to io.Writer) error {
	t := w.store.Load()
	type certificate struct {
		Identity, State string
		NotAfter        any `json:",omitempty"`
	}
	var certificates []certificate
	for _, c := range w.certs.Dump() {
		one := certificate{Identity: c.Identity.String(), State: c.State}
		if c.Credential != nil {
			one.NotAfter = c.Credential.NotAfter()
		}
		certificates = append(certificates, one)
	}
	return json.NewEncoder(to).Encode(map[string]any{
		"services": t.Services(), "workloads": t.Workloads(), "policies": t.Policies(), "certificates": certificates,
	})
}
