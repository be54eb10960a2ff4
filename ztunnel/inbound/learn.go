package inbound

import (
	"context"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/demand"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// learn waits until it is known whether what a tunnel asks of the pod is its own.
func learn(ctx context.Context, known *demand.Cache, self *state.Workload, local netip.Addr, asked hbone.Authority) error {
	to, isAddr := asked.Addr()
	switch {
	case !isAddr:
		return known.Get(ctx, hostKeys(self.Namespace, asked.Host())...)
	case to.Addr() == local:
		return nil
	}
	return known.Learn(ctx, self, to.Addr())
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
