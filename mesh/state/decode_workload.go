package state

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/identity"
)

// What an absent value means; leaving it out saves bytes on the wire.
const (
	defaultTrustDomain    = "cluster.local"
	defaultServiceAccount = "default"
	defaultClusterID      = "Kubernetes"
	defaultCapacity       = 1
)

// identities are those of the workloads of one update, of which many have the same.
type identities map[account]identity.Workload

type account struct{ trustDomain, namespace, name string }

// of returns the workload's identity. One without a valid identity can still be reached in plain text.
func (ids identities) of(w *Workload) identity.Workload {
	a := account{w.TrustDomain, w.Namespace, w.ServiceAccount}
	id, known := ids[a]
	if !known {
		id, _ = identity.New(a.trustDomain, a.namespace, a.name)
		ids[a] = id
	}
	return id
}

func decodeWorkload(in *workload.Workload, ids identities) (*Workload, error) {
	if in.GetUid() == "" {
		return nil, errors.New("the workload has no uid")
	}
	w := &Workload{
		UID:               in.GetUid(),
		Name:              in.GetName(),
		Namespace:         intern(in.GetNamespace()),
		ServiceAccount:    intern(cmp.Or(in.GetServiceAccount(), defaultServiceAccount)),
		TrustDomain:       intern(cmp.Or(in.GetTrustDomain(), defaultTrustDomain)),
		Network:           intern(in.GetNetwork()),
		Node:              intern(in.GetNode()),
		Hostname:          in.GetHostname(),
		CanonicalName:     intern(in.GetCanonicalName()),
		CanonicalRevision: intern(in.GetCanonicalRevision()),
		WorkloadName:      intern(in.GetWorkloadName()),
		ClusterID:         intern(cmp.Or(in.GetClusterId(), defaultClusterID)),
		NativeTunnel:      in.GetNativeTunnel(),
		HostNetwork:       in.GetNetworkMode() == workload.NetworkMode_HOST_NETWORK,
		Healthy:           in.GetStatus() == workload.WorkloadStatus_HEALTHY,
		Capacity:          defaultCapacity,
	}
	if in.GetCapacity() != nil {
		w.Capacity = in.GetCapacity().GetValue()
	}
	if l := in.GetLocality(); l != nil {
		w.Locality = Locality{intern(l.GetRegion()), intern(l.GetZone()), intern(l.GetSubzone())}
	}
	if strings.HasSuffix(w.UID, w.Name) {
		w.Name = w.UID[len(w.UID)-len(w.Name):] // the same bytes
	}
	w.Identity = ids.of(w)
	return w, w.decodeRest(in)
}

// decodeRest reads the fields that can be wrong.
func (w *Workload) decodeRest(in *workload.Workload) (err error) {
	switch in.GetTunnelProtocol() {
	case workload.TunnelProtocol_NONE:
		w.Protocol = TCP
	case workload.TunnelProtocol_HBONE:
		w.Protocol = HBONE
	default:
		return fmt.Errorf("tunnel protocol %s can't be spoken, only NONE and HBONE", in.GetTunnelProtocol())
	}
	switch kind := in.GetWorkloadType(); {
	case isKnown(kind, workload.WorkloadType_name):
		w.Type = WorkloadType(kind)
	default:
		return fmt.Errorf("workload type %d is unknown", kind)
	}
	if mode := in.GetNetworkMode(); !isKnown(mode, workload.NetworkMode_name) {
		return fmt.Errorf("network mode %d is unknown", mode)
	}
	for _, raw := range in.GetAddresses() {
		addr, err := decodeAddr(raw)
		if err != nil {
			return err
		}
		w.Addresses = append(w.Addresses, addr)
	}
	w.Addresses = distinct(w.Addresses)
	if w.Waypoint, err = decodeGateway(in.GetWaypoint()); err != nil {
		return fmt.Errorf("waypoint: %w", err)
	}
	if w.NetworkGateway, err = decodeGateway(in.GetNetworkGateway()); err != nil {
		return fmt.Errorf("network gateway: %w", err)
	}
	if w.AppTunnel, err = decodeAppTunnel(in.GetApplicationTunnel()); err != nil {
		return fmt.Errorf("application tunnel: %w", err)
	}
	return w.decodeLists(in)
}

func (w *Workload) decodeLists(in *workload.Workload) error {
	for _, name := range in.GetAuthorizationPolicies() {
		w.Policies = append(w.Policies, intern(name))
	}
	w.Policies = distinct(w.Policies)
	w.Services = make([]ServicePorts, 0, len(in.GetServices()))
	for name, list := range in.GetServices() {
		if _, ok := parseName(name); !ok {
			return fmt.Errorf("service %q: want namespace/hostname", name)
		}
		ports, err := decodePorts(list.GetPorts())
		if err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
		w.Services = append(w.Services, ServicePorts{intern(name), ports})
	}
	slices.SortFunc(w.Services, func(a, b ServicePorts) int { return cmp.Compare(a.Service, b.Service) })
	return nil
}

func decodeAppTunnel(in *workload.ApplicationTunnel) (*AppTunnel, error) {
	if in == nil {
		return nil, nil
	}
	port, err := decodePort(in.GetPort())
	if err != nil {
		return nil, err
	}
	switch in.GetProtocol() {
	case workload.ApplicationTunnel_NONE:
		return &AppTunnel{Port: port}, nil
	case workload.ApplicationTunnel_PROXY:
		return &AppTunnel{PROXY: true, Port: port}, nil
	default:
		return nil, fmt.Errorf("protocol %d is unknown", in.GetProtocol())
	}
}
