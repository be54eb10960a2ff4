package daemon

import (
	"fmt"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/istiod-lite/push"
)

// waypoint finds the waypoint of which a pod that runs as the caller is an instance.
func (d *Daemon) waypoint(caller push.Caller, pod string) (w push.Waypoint, err error) {
	d.model.View(func() { w, err = waypointOf(d.model, caller, pod) })
	return w, err
}

func waypointOf(m *model.Model, caller push.Caller, name string) (push.Waypoint, error) {
	pod := m.Pod(model.Name{Namespace: caller.Namespace, Name: name})
	if pod == nil || pod.Ended || pod.ServiceAccount != caller.ServiceAccount || pod.Node != caller.Node {
		return push.Waypoint{}, fmt.Errorf("no pod %s/%s runs as %s on node %q", caller.Namespace, name, caller.ServiceAccount, caller.Node)
	}
	gateway := m.Gateway(pod.Gateway())
	if gateway == nil || !m.IsWaypoint(gateway) {
		return push.Waypoint{}, fmt.Errorf("pod %s/%s is not labelled as an instance of a Gateway of class %s", caller.Namespace, name, model.WaypointClass)
	}
	host := m.Hostname(&model.Service{Namespace: gateway.Namespace, Name: gateway.Deployed().Name})
	for _, address := range gateway.Addresses {
		if address.Host != "" {
			host = address.Host
			break
		}
	}
	return push.Waypoint{
		Gateway: gateway.Key().Name.String(), Class: gateway.Class, Service: gateway.Namespace + "/" + host,
		Namespace: gateway.Namespace, RootNamespace: m.RootNamespace(),
	}, nil
}
