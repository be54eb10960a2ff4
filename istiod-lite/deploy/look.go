package deploy

import (
	"cmp"
	"slices"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// Waypoint is a Gateway that this control plane deploys, with what the model knows of it. It doesn't change.
type Waypoint struct {
	Gateway              *model.Gateway
	TrustDomain, Network string
	// XFCC has it tell servers who their client is.
	XFCC bool
	// Addresses are those of its Service, first the host name, by which services refer to it; empty if there is none.
	Addresses []model.GatewayAddress
	// Ready says that an instance takes traffic.
	Ready bool
	// Attached are how many routes are in force, by listener.
	Attached map[string]int
}

// Look returns what there is to know of a Gateway; nil if it isn't ours to deploy: of another class, or of another
// control plane's revision.
func Look(m *model.Model, name model.Name, attached func(*model.Model, *model.Gateway) map[string]int) *Waypoint {
	g := m.Gateway(name)
	if g == nil || g.Deleted || !ours(m, g) {
		return nil
	}
	w := &Waypoint{Gateway: g, TrustDomain: m.TrustDomain(), Network: m.Network(), XFCC: m.XFCC(g), Attached: attached(m, g)}
	for _, pod := range m.Instances(name) {
		w.Ready = w.Ready || pod.Ready
	}
	if service := m.Service(g.Deployed()); service != nil && len(service.VIPs) > 0 {
		w.Addresses = append(w.Addresses, model.GatewayAddress{Host: m.Hostname(service)})
		for _, ip := range service.VIPs {
			w.Addresses = append(w.Addresses, model.GatewayAddress{IP: ip})
		}
	}
	return w
}

func ours(m *model.Model, g *model.Gateway) bool {
	revision := cmp.Or(m.RevisionOf(g), "default")
	return m.IsWaypoint(g) && slices.Contains(m.Settings().Revisions, revision)
}

// Manual tells whether somebody else deploys it, and the Gateway says only where it is.
func (w *Waypoint) Manual() bool { return len(w.Gateway.Wanted) > 0 }
