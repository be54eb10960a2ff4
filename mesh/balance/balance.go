// Package balance chooses the endpoint of a service that a connection goes to, and the address to dial of a workload.
package balance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// What the caller has to do instead of dialling Choice.Addr.
var (
	// ErrPassthrough: the service wants connections to go where they were sent.
	ErrPassthrough = errors.New("the service passes connections through")
	// ErrNeedsDNS: Choice.Workload has no address; its Hostname has to be resolved. Choice.Addr has the port only.
	ErrNeedsDNS = errors.New("the workload's hostname has to be resolved")
	// ErrRemoteNetwork: Choice.Workload is in another network, to be reached through its NetworkGateway, which is set.
	ErrRemoteNetwork = errors.New("the workload is in another network")
	// ErrNoEndpoint: nothing can take the connection.
	ErrNoEndpoint = errors.New("no healthy upstream")
)

// Choice is where a connection goes.
type Choice struct {
	Workload *state.Workload
	Service  *state.Service // the service through which the workload was chosen, nil if by its own address
	Addr     netip.AddrPort // an address of the workload and the target port
}

// Pick chooses an endpoint of svc for a connection to one of its ports by the workload from. dialled is the address that
// the client used; the endpoint's address is of the same family where possible. The errors above can be told apart by
// errors.Is; with ErrNeedsDNS and ErrRemoteNetwork the Choice is filled in as far as it goes.
func Pick(t *state.Table, svc *state.Service, port uint16, from *state.Workload, dialled netip.Addr) (Choice, error) {
	if svc.LoadBalancing.Mode == state.ModePassthrough {
		return Choice{Service: svc}, ErrPassthrough
	}
	r := newRequest(svc, port, from)
	chosen, err := r.endpoint(t)
	if err != nil {
		return Choice{Service: svc}, err
	}
	choice, err := finish(chosen.Workload, svc, r.target(chosen), dialled)
	return localTo(from, choice, err)
}

// Gateway chooses an instance of a waypoint for a connection by the workload from to dialled. Choice.Addr has the port
// on which the instance takes HBONE. Errors are as of Pick; a waypoint that isn't there is ErrNoEndpoint, never a reason
// to go round it.
func Gateway(t *state.Table, gw *state.Gateway, from *state.Workload, dialled netip.Addr) (Choice, error) {
	choice, err := resolve(t, gw, from, dialled)
	return localTo(from, choice, err)
}

// NetworkGateway is Gateway for the way into another network: its instances may be in that network themselves.
func NetworkGateway(t *state.Table, gw *state.Gateway, from *state.Workload, dialled netip.Addr) (Choice, error) {
	choice, err := resolve(t, gw, from, dialled)
	if errors.Is(err, ErrRemoteNetwork) {
		err = fmt.Errorf("%w: the network gateway %s has no address itself", ErrNoEndpoint, choice.Workload.UID)
	}
	return choice, err
}

// Waypoint returns the waypoint for a new connection to the service, one of several by their weights, or nil.
func Waypoint(svc *state.Service) *state.Gateway {
	var sum uint64
	for i := range svc.WeightedWaypoints {
		sum += uint64(svc.WeightedWaypoints[i].Weight)
	}
	if sum == 0 {
		return svc.Waypoint
	}
	at := rand.Uint64N(sum)
	for i := range svc.WeightedWaypoints {
		weight := uint64(svc.WeightedWaypoints[i].Weight)
		if at < weight {
			return &svc.WeightedWaypoints[i].Gateway
		}
		at -= weight
	}
	return svc.Waypoint
}

// AddrOf returns the address to dial of w, which was reached through svc (nil if by its own address) for a client that
// dialled the given one. Errors are ErrNeedsDNS, ErrRemoteNetwork and ErrNoEndpoint.
func AddrOf(w *state.Workload, svc *state.Service, dialled netip.Addr) (netip.Addr, error) {
	if slices.Contains(w.Addresses, dialled) {
		return dialled, nil
	}
	var other netip.Addr
	for _, addr := range w.Addresses {
		switch {
		case svc != nil && !svc.IPFamilies.Permit(addr):
		case addr.Is4() == dialled.Is4():
			return addr, nil
		case !other.IsValid():
			other = addr
		}
	}
	switch {
	case other.IsValid():
		return other, nil
	case w.Hostname != "":
		return netip.Addr{}, ErrNeedsDNS
	case w.NetworkGateway != nil:
		return netip.Addr{}, ErrRemoteNetwork
	default:
		return netip.Addr{}, ErrNoEndpoint
	}
}

// resolve chooses an instance of a gateway, in whatever network.
func resolve(t *state.Table, gw *state.Gateway, from *state.Workload, dialled netip.Addr) (Choice, error) {
	var svc *state.Service
	var w *state.Workload
	if at := gw.Address; at.Addr.IsValid() {
		dialled = at.Addr
		if svc = t.VIP(at.Network, at.Addr, from.Namespace); svc == nil {
			w = t.WorkloadAt(at.Network, at.Addr)
		}
	} else if svc = t.Service(gw.Host.Namespace, gw.Host.Name); svc == nil {
		w = t.WorkloadByHost(gw.Host.Namespace, gw.Host.Name)
	}
	switch {
	case svc != nil:
		r := newRequest(svc, gw.Port, from)
		r.gateway = true
		chosen, err := r.endpoint(t)
		if err != nil {
			return Choice{Service: svc}, fmt.Errorf("gateway: %w", err)
		}
		return finish(chosen.Workload, svc, r.target(chosen), dialled)
	case w != nil:
		return finish(w, nil, gw.Port, dialled)
	case gw.Address.Addr.IsValid():
		return Choice{}, fmt.Errorf("%w: gateway %s is unknown in network %q", ErrNoEndpoint, gw.Address.Addr, gw.Address.Network)
	default:
		return Choice{}, fmt.Errorf("%w: gateway %s is unknown", ErrNoEndpoint, gw.Host)
	}
}

// finish fills in the address of the chosen workload.
func finish(w *state.Workload, svc *state.Service, port uint16, dialled netip.Addr) (Choice, error) {
	addr, err := AddrOf(w, svc, dialled)
	choice := Choice{Workload: w, Service: svc, Addr: netip.AddrPortFrom(addr, port)}
	if errors.Is(err, ErrNoEndpoint) {
		err = fmt.Errorf("%w: workload %s has no address", err, w.UID)
	}
	return choice, err
}

// localTo returns what a client makes of a choice: a workload in another network is reached through that one's gateway.
func localTo(from *state.Workload, choice Choice, err error) (Choice, error) {
	w := choice.Workload
	switch {
	case w == nil || errors.Is(err, ErrNoEndpoint):
		return choice, err
	case w.Network == from.Network && errors.Is(err, ErrRemoteNetwork):
		return choice, fmt.Errorf("%w: workload %s has no address", ErrNoEndpoint, w.UID)
	case w.Network == from.Network:
		return choice, err
	case w.NetworkGateway == nil:
		return choice, fmt.Errorf("%w: workload %s is in network %q, which has no gateway", ErrNoEndpoint, w.UID, w.Network)
	default:
		return choice, ErrRemoteNetwork
	}
}
