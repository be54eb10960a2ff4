package daemon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
)

// register adds the metrics that belong to no room.
func (d *Daemon) register(registry *prometheus.Registry) {
	d.rejected = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "istiod_lite_rejected_files_total", Help: "Reports of files that couldn't be used.",
	})
	start := time.Now()
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), d.rejected,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pilot_services", Help: "Services that are known."},
			func() (count float64) {
				d.model.View(func() { count = float64(d.model.Count(model.KindService)) })
				return count
			}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "istiod_uptime_seconds", Help: "Seconds since the start."},
			func() float64 { return time.Since(start).Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilot_info", Help: "The version that runs, as a label.", ConstLabels: prometheus.Labels{"version": version()},
		}, func() float64 { return 1 }),
	)
}

// pages are the debug pages.
func (d *Daemon) pages(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /debug/syncz", d.pusher)
	mux.HandleFunc("GET /debug/ambientz", d.ambientz)
	mux.HandleFunc("GET /ready", d.readiness)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, version()) })
	return mux
}

// readiness is 200 from the first good read of everything on.
func (d *Daemon) readiness(w http.ResponseWriter, _ *http.Request) {
	if d.pipeline.ready.Load() {
		fmt.Fprintln(w, "ready")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, "not ready, pending: first read of", d.cfg.Source)
	if trouble := d.trouble.Load(); trouble != nil {
		fmt.Fprintln(w, *trouble)
	}
}

// ambientz dumps everything that proxies are told.
func (d *Daemon) ambientz(w http.ResponseWriter, _ *http.Request) {
	dump := map[string][]map[string]any{"workloads": {}, "services": {}, "policies": {}}
	for _, typeURL := range []string{push.Address, push.Authorization} {
		d.resource.Each(typeURL, func(resource *discoveryv3.Resource) bool {
			kind, fields, err := translate.RenderAny(resource.Resource)
			if err != nil {
				kind, fields = "policies", map[string]any{"name": resource.Name, "err": err.Error()}
			}
			dump[kind] = append(dump[kind], fields)
			return true
		})
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(dump) // the reader went away
}

// version is what the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return info.Main.Version
}
