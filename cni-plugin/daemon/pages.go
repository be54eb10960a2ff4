package daemon

import (
	"fmt"
	"net/http"
	"net/netip"

	"github.com/tulle-mesh/tulle/cni-plugin/agent"
	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/admin"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/status"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// pages are served at the health address.
func (d *daemon) pages(levels *telemetry.Levels) http.Handler {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return admin.Pages("tulle-cni-agent on "+d.cfg.Node, append([]admin.Page{
		{Path: "/healthz", Title: "alive", Handler: ok},
		{Path: "/readyz", Title: "ready to take pods in", Handler: &d.ready},
		{Path: "/metrics", Title: "metrics", Handler: d.metrics.handler},
		admin.JSON("/debug/pods", "pods of this node, and why they are in the mesh or not", func() any { return d.view() }),
		{Path: "/debug/verify", Title: "", Handler: http.HandlerFunc(d.verify)},
		admin.Logging(admin.Levels{Get: levels.String, Set: levels.Set, Reset: levels.Reset}),
	}, admin.Profiles()...))
}

// metricsPage is served at the metrics address.
func (d *daemon) metricsPage() http.Handler {
	return admin.Pages("tulle-cni-agent on "+d.cfg.Node, []admin.Page{{Path: "/metrics", Title: "metrics", Handler: d.metrics.handler}})
}

// view is the debug page.
type view struct {
	Proxies   int                   `json:"proxies"`                // connected
	Disagree  string                `json:"disagreement,omitempty"` // of the newest proxy's settings with the agent's
	Passing   []netip.Addr          `json:"probesPass"`             // addresses of pods, in the node
	Pods      []podView             `json:"pods"`
	Published map[string]status.Pod `json:"published"`
}

// podView is a pod with what is found in its network namespace at the time of the look.
type podView struct {
	agent.View
	Capture string          `json:"capture,omitempty"`
	Engine  redirect.Engine `json:"engine,omitempty"`
	redirect.Detail
}

func (d *daemon) view() view {
	views := d.agent.Views()
	v := view{Proxies: d.proxies.Connected(), Disagree: d.proxies.Disagreement(), Pods: []podView{}, Published: d.place.published(views)}
	v.Passing, _ = d.probes.Passing()
	for _, each := range views {
		v.Pods = append(v.Pods, d.lookInto(each))
	}
	return v
}

func (d *daemon) lookInto(v agent.View) podView {
	p := podView{View: v}
	if v.Netns == "" {
		return p
	}
	ns, err := socket.OpenNetns(v.Netns)
	if err != nil {
		return p // the agent's own view says why
	}
	defer ns.Close()
	seen, err := d.engines.Look(ns)
	if err != nil {
		p.Capture = err.Error()
		return p
	}
	defer seen.Close()
	found := seen.Found()
	p.Capture, p.Engine = found.String(), found.Engine
	if p.Detail, err = seen.Detail(); err != nil {
		p.Capture += "; " + err.Error()
	}
	return p
}
