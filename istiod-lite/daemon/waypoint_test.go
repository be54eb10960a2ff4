package daemon

import (
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
)

// Services name their waypoint by its Service, so the waypoint has to be known by that, whatever it is called.
func TestAWaypointIsKnownByItsService(t *testing.T) {
	for name, c := range map[string]struct {
		gateway model.Gateway
		want    string
	}{
		"its own name":       {model.Gateway{}, "shop/waypoint.shop.svc.cluster.local"},
		"another name":       {model.Gateway{Objects: model.GatewayObjects{Name: "other"}}, "shop/other.shop.svc.cluster.local"},
		"the status":         {model.Gateway{Addresses: []model.GatewayAddress{{Host: "w.example"}}}, "shop/w.example"},
		"addresses and name": {model.Gateway{Addresses: []model.GatewayAddress{{IP: netip.MustParseAddr("10.0.0.1")}, {Host: "w.example"}}}, "shop/w.example"},
	} {
		t.Run(name, func(t *testing.T) {
			m := model.New(model.Settings{SystemNamespace: "istio-system", Domain: "cluster.local"})
			g := c.gateway
			g.Namespace, g.Name, g.Class = "shop", "waypoint", model.WaypointClass
			pod := &model.Pod{
				Namespace: "shop", Name: "waypoint-1", Node: "node1", ServiceAccount: "waypoint",
				Labels: model.LabelsOf(map[string]string{"gateway.networking.k8s.io/gateway-name": "waypoint"}),
			}
			m.Apply([]model.Change{{Key: g.Key(), Object: &g}, {Key: pod.Key(), Object: pod}})
			got, err := waypointOf(m, push.Caller{Namespace: "shop", ServiceAccount: "waypoint", Node: "node1"}, "waypoint-1")
			if err != nil || got.Service != c.want {
				t.Errorf("%+v %v, want %s", got, err, c.want)
			}
		})
	}
}
