// Package balance chooses the endpoint of a service that a connection goes to, and the address to dial of a workload.
package balance

import (
	"errors"
	"net/netip"

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
	return Choice{}, ErrNoEndpoint
}

// Gateway chooses an instance of the waypoint or network gateway for a connection by the workload from to dialled.
// Choice.Addr has the port on which the instance takes HBONE. Errors are as of Pick; a gateway that isn't there is
// ErrNoEndpoint, never a reason to go round it.
func Gateway(t *state.Table, gw *state.Gateway, from *state.Workload, dialled netip.Addr) (Choice, error) {
	return Choice{}, ErrNoEndpoint
}

// Waypoint returns the waypoint for a new connection to the service, one of several by their weights, or nil.
func Waypoint(svc *state.Service) *state.Gateway { return svc.Waypoint }

// AddrOf returns the address to dial of w, which was reached through svc (nil if by its own address) for a client that
// dialled the given one. Errors are ErrNeedsDNS, ErrRemoteNetwork and ErrNoEndpoint.
func AddrOf(w *state.Workload, svc *state.Service, dialled netip.Addr) (netip.Addr, error) {
	return netip.Addr{}, ErrNoEndpoint
}
