package translate

import (
	"strconv"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// network makes workloads of the gateways into another network: proxies look up by them whom they talk to there.
func (mesh Mesh) network(m *model.Model, name string) Result {
	var result Result
	if name == m.Network() {
		return result
	}
	seen := make(map[string]bool)
	for _, g := range m.NetworkGateways(name) {
		for _, at := range g.Entrances() {
			w := mesh.entrance(m, g, at)
			if !seen[w.Uid] {
				seen[w.Uid] = true
				result.Resources = append(result.Resources, workloadResource(w))
			}
		}
	}
	return result
}

func (mesh Mesh) entrance(m *model.Model, g *model.Gateway, at model.GatewayAddress) *workload.Workload {
	w := &workload.Workload{
		Name:              g.Name,
		Namespace:         g.Namespace,
		Hostname:          at.Host,
		Network:           g.Network,
		TrustDomain:       trustDomain(m),
		ServiceAccount:    g.ServiceAccount,
		TunnelProtocol:    workload.TunnelProtocol_HBONE,
		WorkloadType:      workload.WorkloadType_POD,
		WorkloadName:      g.Name,
		CanonicalName:     g.Name,
		CanonicalRevision: "latest",
		ClusterId:         mesh.ClusterID,
	}
	text := at.Host
	if at.IP.IsValid() {
		text = at.IP.String()
		w.Addresses = [][]byte{at.IP.AsSlice()}
	}
	w.Uid = "NetworkGateway/" + g.Network + "/" + text + "/" + strconv.Itoa(int(entrancePort(g)))
	return w
}

// entrancePort is where a gateway takes HBONE from other networks.
func entrancePort(g *model.Gateway) uint32 {
	for i := range g.Listeners {
		if g.Listeners[i].Protocol == "HBONE" {
			return uint32(g.Listeners[i].Port)
		}
	}
	return model.HBONEPort
}

// wayInto is the gateway into another network, or nil where none is known.
func wayInto(m *model.Model, network string) *workload.GatewayAddress {
	gateways := m.NetworkGateways(network)
	if len(gateways) == 0 {
		return nil
	}
	g := gateways[0]
	return gatewayAddress(network, g.Namespace, g.Entrances()[0], entrancePort(g))
}
