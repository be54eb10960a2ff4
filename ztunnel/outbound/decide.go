package outbound

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// Why a connection isn't even tried.
var (
	errSelfCall      = errors.New("the application called one of ztunnel's own ports in its own pod: that would never end")
	errWaypoint      = errors.New("it can't be reached, and traffic never goes round a waypoint: see that it is deployed and ready, or take the label istio.io/use-waypoint away")
	errRemoteNetwork = errors.New("it is in another network, and the way there can't be taken")
	errAlternative   = errors.New("there is no other endpoint to try")
)

// maxAttempts is how many endpoints a connection is tried with, and how many networks are looked at for one.
const maxAttempts = 3

// Call is a connection that a pod wants to make. Its methods decide by the table alone: they never wait.
type Call struct {
	Table  *state.Table
	From   *state.Workload // the pod
	Client capture.Client
	To     capture.OriginalDst
	Open   *balance.Open // what is open already; nil as if nothing were

	tried []string // uids of workloads to which connecting failed
}

// Decide finds the route. After an error it tells how far the decision went.
func (c *Call) Decide() (Route, error) {
	if c.selfCall() {
		return Route{}, errSelfCall
	}
	w, svc := c.Table.Find(c.From.Network, c.To.Addr(), c.From.Namespace)
	if gw := c.waypoint(w, svc); gw != nil {
		r, err := c.viaWaypoint(gw, svc)
		return r, about(svc, w, err)
	}
	if svc != nil {
		r, err := c.toService(c.balancer(), svc, w)
		return r, about(svc, w, err)
	}
	if w != nil {
		return direct(w, nil, c.To.AddrPort)
	}
	return Route{Hop: Hop{Addr: c.To.AddrPort}}, nil
}

// selfCall tells that the client has dialled one of ztunnel's listeners in its own pod, or is ztunnel on its way there: a
// connection that went on would come back. A pod has other addresses than those the table knows, but what comes from the
// address that it goes to has not left the pod.
func (c *Call) selfCall() bool {
	own := c.To.Addr().IsLoopback() || c.To.Addr() == c.Client.Addr()
	return own && capture.Illegal(c.To.Port(), true)
}

// Next finds another route after connecting by one has failed: to another endpoint of the same service or another instance
// of the same waypoint. It decides anew, so a newer Table may be set before. There is none if the client dialled a
// workload's own address or something that the mesh doesn't know, nor after a few attempts. What failed is shunned by other
// calls for a while.
func (c *Call) Next(failed *Route) (Route, error) {
	if failed.Workload == nil {
		return *failed, errAlternative
	}
	if c.Open != nil {
		c.Open.Failed(failed.Workload, failed.target())
	}
	if len(c.tried)+1 >= maxAttempts {
		return *failed, errAlternative
	}
	c.tried = append(c.tried, failed.Workload.UID)
	r, err := c.Decide()
	if err == nil && r.Workload != nil && slices.Contains(c.tried, r.Workload.UID) {
		return r, errAlternative
	}
	return r, err
}

// another tells whether Next would find a route, and changes nothing.
func (c *Call) another(failed *Route) bool {
	probe := *c
	probe.tried, probe.Open = slices.Clone(c.tried), nil
	_, err := probe.Next(failed)
	return err == nil
}

// about says whose route it is that failed.
func about(svc *state.Service, w *state.Workload, err error) error {
	switch {
	case err == nil:
		return nil
	case svc != nil:
		return fmt.Errorf("service %s: %w", svc.Key(), err)
	default:
		return fmt.Errorf("workload %s: %w", w.UID, err)
	}
}

// waypoint returns the waypoint that the connection has to pass, or nil. A waypoint itself goes on to the workloads
// directly.
func (c *Call) waypoint(w *state.Workload, svc *state.Service) *state.Gateway {
	if w != nil && c.fromWaypoint(w, svc) {
		return nil
	}
	if svc != nil {
		if gw := balance.Waypoint(svc); gw != nil {
			return gw
		}
	}
	if w != nil {
		return w.Waypoint
	}
	return nil
}

func (c *Call) fromWaypoint(w *state.Workload, svc *state.Service) bool {
	if svc != nil {
		for i := range svc.WeightedWaypoints {
			if c.is(&svc.WeightedWaypoints[i].Gateway) {
				return true
			}
		}
		if c.is(svc.Waypoint) {
			return true
		}
	}
	return c.is(w.Waypoint)
}

// is tells that the client is an instance of the gateway: by its place among a service's endpoints, or by its identity, and
// by its address.
func (c *Call) is(gw *state.Gateway) bool {
	if gw == nil || !slices.Contains(c.From.Addresses, c.Client.Addr()) {
		return false
	}
	w, svc := c.Table.Behind(gw, c.From.Namespace)
	if svc != nil {
		_, serves := c.Table.Endpoint(svc, c.From)
		return serves
	}
	return w != nil && w.Identity == c.From.Identity && slices.Contains(w.Addresses, c.Client.Addr())
}

func (c *Call) balancer() *balance.Client {
	return &balance.Client{Table: c.Table, From: c.From, Dialled: c.To.Addr(), Tried: c.tried, Open: c.Open}
}

// viaWaypoint asks the waypoint for exactly what the client dialled.
func (c *Call) viaWaypoint(gw *state.Gateway, svc *state.Service) (Route, error) {
	choice, err := c.balancer().Gateway(gw)
	switch {
	case errors.Is(err, balance.ErrRemoteNetwork):
		r, err := c.viaNetwork(choice, svc)
		if err != nil {
			err = fmt.Errorf("waypoint %s: %w: %w", gw, errWaypoint, err)
		}
		return r, err
	case err != nil && !errors.Is(err, balance.ErrNeedsDNS):
		return Route{Kind: Waypoint, Workload: choice.Workload, Service: svc}, fmt.Errorf("waypoint %s: %w: %w", gw, errWaypoint, err)
	}
	hop := Hop{Addr: choice.Addr, Authority: hbone.AuthorityFromAddr(c.To.AddrPort), Expected: expected(choice.Workload, choice.Service)}
	return Route{Kind: Waypoint, Hop: hop, Workload: choice.Workload, Service: svc}.checked()
}

// toService chooses an endpoint. If the address is w's own as well, w takes what the service can't.
func (c *Call) toService(client *balance.Client, svc *state.Service, w *state.Workload) (Route, error) {
	choice, err := client.Pick(svc, c.To.Port())
	switch {
	case err == nil, errors.Is(err, balance.ErrNeedsDNS):
		return direct(choice.Workload, svc, choice.Addr)
	case errors.Is(err, balance.ErrRemoteNetwork):
		r, err := c.viaNetwork(choice, svc)
		if err == nil || len(client.Tried) >= maxAttempts {
			return r, err
		}
		client.Tried = append(slices.Clip(client.Tried), choice.Workload.UID)
		if elsewhere, err := c.toService(client, svc, w); err == nil {
			return elsewhere, nil
		}
		return r, err
	case w != nil:
		return direct(w, nil, c.To.AddrPort)
	case errors.Is(err, balance.ErrPassthrough):
		return Route{Hop: Hop{Addr: c.To.AddrPort}, Service: svc}, nil
	default:
		return Route{Service: svc, Workload: choice.Workload}, err
	}
}

// viaNetwork goes through the gateway of the network that the chosen workload is in. There only the service's hostname
// means something, and only the service can say whom to expect.
func (c *Call) viaNetwork(chosen balance.Choice, svc *state.Service) (Route, error) {
	r := Route{Kind: Double, Service: svc, Remote: chosen.Workload}
	network := chosen.Workload.Network
	if svc == nil {
		return r, fmt.Errorf("%w: network %q: only services can be reached there, not single workloads", errRemoteNetwork, network)
	}
	gateway, err := c.balancer().NetworkGateway(chosen.Workload.NetworkGateway)
	r.Workload = gateway.Workload
	if err != nil && !errors.Is(err, balance.ErrNeedsDNS) {
		return r, fmt.Errorf("%w: network %q: %w", errRemoteNetwork, network, err)
	}
	authority, err := hbone.ParseAuthority(svc.Hostname + ":" + strconv.Itoa(int(c.To.Port())))
	if err != nil {
		return r, fmt.Errorf("%w: network %q: %w", errRemoteNetwork, network, err)
	}
	if chosen.Service == nil || len(chosen.Service.SANs) == 0 {
		return r, fmt.Errorf("%w: network %q: workload %s: %w", errRemoteNetwork, network, chosen.Workload.UID, errNoIdentity)
	}
	r.Hop = Hop{Addr: gateway.Addr, Authority: authority, Expected: expected(gateway.Workload, gateway.Service)}
	r.Inner = &Hop{Authority: authority, Expected: chosen.Service.SANs}
	return r.checked()
}
