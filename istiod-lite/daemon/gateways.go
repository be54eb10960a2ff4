package daemon

import (
	"cmp"

	"k8s.io/client-go/dynamic"

	"github.com/tulle-mesh/tulle/istiod-lite/config"
	"github.com/tulle-mesh/tulle/istiod-lite/deploy"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/routes"
	"github.com/tulle-mesh/tulle/istiod-lite/status"
)

// openGateways makes what deploys Gateways and tells them of it. One leader does both, since who writes the status has to know
// what became of the objects.
func (d *Daemon) openGateways(client dynamic.Interface) (*deploy.Writer, *status.Writer) {
	// Statuses of Gateways and classes of others are left alone, so there are no types of conditions that would be taken away.
	statuses := status.New(status.Config{
		Client: client, Manager: "istiod-lite-gateways", Revisions: settings(d.cfg).Revisions,
		Kinds: []model.Kind{model.KindGateway, model.KindGatewayClass}, Log: d.log.With("scope", "status"),
	})
	waypoints := deploy.New(deploy.Config{
		Client: client, Settings: waypointSettings(d.cfg, d.version), Log: d.log.With("scope", "deploy"),
		Tell: func(key model.Key, generation int64, s *deploy.Status) {
			if s == nil {
				statuses.Set(key, 0, nil)
				return
			}
			statuses.SetGateway(key, generation, s.Conditions, &s.GatewayStatus)
		},
	})
	d.pipeline.gateway = d.gateway
	d.verdicts.gateway = waypoints.Reject
	return waypoints, statuses
}

func waypointSettings(cfg config.Config, version string) deploy.Settings {
	return deploy.Settings{
		Image: cmp.Or(cfg.Waypoint.Image, "docker.io/tulle-mesh/waypoint:"+version), PullPolicy: cfg.Waypoint.PullPolicy, PullSecrets: cfg.Waypoint.PullSecrets, CRL: cfg.Waypoint.CRL,
		Domain: cfg.Domain, ClusterID: cfg.ClusterID, Revision: cfg.Revision, Namespace: cfg.RootNamespace,
	}
}

// gateway tells the writers of a Gateway, or a class of Gateways, of which anything may be different now.
func (d *Daemon) gateway(key model.Key) {
	if key.Kind == model.KindGatewayClass {
		class, _ := d.model.Object(key).(*model.GatewayClass)
		conditions, features := deploy.ClassStatus(class)
		d.writers.gateways.SetClass(key, d.model.Generation(key), conditions, features)
		return
	}
	waypoint := deploy.Look(d.model, key.Name, routes.Attached)
	d.writers.roots.Waypoint(key.Name, waypoint != nil)
	d.writers.waypoints.Put(key.Name, waypoint)
}
