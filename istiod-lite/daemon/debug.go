package daemon

import (
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tulle-mesh/tulle/istiod-lite/push"
	"github.com/tulle-mesh/tulle/istiod-lite/translate"
	"github.com/tulle-mesh/tulle/mesh/admin"
)

// pages are what people and Prometheus see.
func (d *Daemon) pages(registry *prometheus.Registry) http.Handler {
	return nearby(admin.Pages("istiod-lite", append(admin.Profiles(), []admin.Page{
		{Path: "/metrics", Title: "metrics for Prometheus", Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})},
		admin.JSON("/debug/syncz", "proxies that are connected, and what each was sent and has acknowledged", func() any { return d.pusher.Status() }),
		admin.JSON("/debug/ambientz", "workloads, services and policies as proxies are told", d.ambientz),
		admin.JSON("/debug/l7z", "routes, policies and authentication as waypoints are told", d.l7z),
		{Path: "/debug/configz", Title: "objects as they were understood (?kind=Pod&namespace=demo)", Handler: http.HandlerFunc(d.configz)},
		{Path: "/ready", Title: "whether proxies are served", Handler: http.HandlerFunc(d.readiness)},
		{Path: "/healthz", Title: "whether the program runs", Handler: text("ok")},
		{Path: "/version", Title: "what was built", Handler: text(build(d.version))},
	}...)))
}

// nearby keeps what is in the mesh, and profiles, from whoever isn't on this machine or in this pod: kubectl port-forward is.
func nearby(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if strings.HasPrefix(path.Clean(r.URL.Path), "/debug") && (err != nil || !from.Addr().Unmap().IsLoopback()) {
			http.Error(w, "debug pages are only for callers by loopback: use kubectl port-forward to this pod", http.StatusForbidden)
			return
		}
		pages.ServeHTTP(w, r)
	})
}

func text(line string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, line) })
}

// build is the version as istioctl and Kiali take it apart: version-revision-status.
func build(version string) string {
	revision, status := "unknown", "Clean"
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				revision = setting.Value
			case setting.Key == "vcs.modified" && setting.Value == "true":
				status = "Modified"
			}
		}
	}
	return version + "-" + revision + "-" + status
}

// readiness is 200 from the first good read of everything on, once objects can be stored: what is known stays in force, so who lags is no
// less ready.
func (d *Daemon) readiness(w http.ResponseWriter, _ *http.Request) {
	if d.drain.draining() {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready, pending: the end of this control plane")
		return
	}
	stale, read := d.stale.Load(), d.pipeline.ready.Load()
	if read && stale == nil {
		fmt.Fprintln(w, "ready")
		for _, one := range d.source.lagging() {
			fmt.Fprintln(w, "lagging:", one)
		}
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	if waits := d.waits.Load(); waits != nil {
		fmt.Fprintln(w, "not ready, pending:", *waits)
		return
	}
	if lacks := d.pipeline.lacks.Load(); lacks != nil {
		fmt.Fprintln(w, "not ready, pending:", *lacks+"; the log names them")
		return
	}
	if read {
		fmt.Fprintln(w, "not ready, pending:", *stale)
		return
	}
	fmt.Fprintln(w, "not ready, pending: first read of", d.source.name)
	for _, one := range d.source.pending() {
		fmt.Fprintln(w, one)
	}
}

// ambientz is everything that all proxies are told.
func (d *Daemon) ambientz() any {
	dump := map[string][]map[string]any{"workloads": {}, "services": {}, "policies": {}}
	for _, typeURL := range []string{push.Address, push.Authorization} {
		for _, resource := range d.resource.All(typeURL) {
			kind, fields, err := translate.RenderAny(resource.Resource)
			if err != nil {
				kind, fields = "policies", map[string]any{"name": resource.Name, "err": err.Error()}
			}
			dump[kind] = append(dump[kind], fields)
		}
	}
	return dump
}

// l7z is everything that waypoints are told of requests.
func (d *Daemon) l7z() any {
	dump := []map[string]any{}
	for _, resource := range d.resource.All(push.L7) {
		_, fields, err := translate.RenderAny(resource.Resource)
		if err != nil {
			fields = map[string]any{"err": err.Error()}
		}
		fields["resource"] = resource.Name
		dump = append(dump, fields)
	}
	return dump
}
