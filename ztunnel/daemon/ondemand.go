package daemon

import (
	"context"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// key is what the control plane is asked for to learn of the pod.
func (p *pod) key() demand.Key {
	return demand.Workload(p.cfg.ClusterID + "//Pod/" + p.info.Namespace + "/" + p.info.Name)
}

// lacks tells that the way of a connection by from can't be decided yet.
func (p *pod) lacks(t *state.Table, from *state.Workload, to netip.Addr) bool {
	return len(p.demand.Missing(t, from, to)) > 0
}

// learn waits until the way of a connection by from can be decided.
func (p *pod) learn(ctx context.Context, from *state.Workload, to netip.Addr) error {
	return p.demand.Learn(ctx, from, to)
}

// learnTarget waits until it is known whether what somebody asks of the pod is its own.
func (p *pod) learnTarget(ctx context.Context, self *state.Workload, local netip.Addr, asked hbone.Authority) error {
	to, isAddr := asked.Addr()
	switch {
	case !isAddr:
		return p.demand.Get(ctx, hostKeys(self.Namespace, asked.Host())...)
	case to.Addr() == local:
		return nil
	}
	return p.demand.Learn(ctx, self, to.Addr())
}

// hostKeys are the services that a hostname may mean to a pod: one of its own namespace, and if it is Kubernetes's name of
// a service, that.
func hostKeys(namespace, host string) []demand.Key {
	keys := []demand.Key{demand.Host(state.Name{Namespace: namespace, Name: host})}
	if labels := strings.SplitN(host, ".", 4); len(labels) > 2 && labels[2] == "svc" && labels[1] != namespace {
		keys = append(keys, demand.Host(state.Name{Namespace: labels[1], Name: host}))
	}
	return keys
}
