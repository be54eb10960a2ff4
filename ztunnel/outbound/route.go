package outbound

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// Why a connection isn't even tried.
var (
	errSelfCall      = errors.New("the application called one of ztunnel's own ports on loopback: that would never end")
	errWaypoint      = errors.New("the destination wants its traffic to pass a waypoint, which this ztunnel can't do yet")
	errRemoteNetwork = errors.New("the destination is in another network, which this ztunnel can't reach yet")
)

// route is where a connection goes, and how.
type route struct {
	Tunnel    bool
	Addr      netip.AddrPort  // to dial
	Authority hbone.Authority // with Tunnel: what to ask the peer for
	Expected  []identity.Workload
	Workload  *state.Workload // nil for what the mesh doesn't know
	Service   *state.Service  // nil unless the client dialled one
}

// decide finds the route of a connection by the workload from. It decides by the table alone; if only the name of an
// endpoint is known, the route's address lacks its IP.
func decide(t *state.Table, from *state.Workload, to capture.OriginalDst) (route, error) {
	if to.Addr().IsLoopback() && capture.Illegal(to.Port()) {
		return route{}, errSelfCall
	}
	w, svc := t.Find(from.Network, to.Addr(), from.Namespace)
	switch {
	case svc != nil:
		return toService(t, svc, from, to)
	case w != nil:
		return toWorkload(w, to)
	default:
		return route{Addr: to.AddrPort}, nil
	}
}

func toService(t *state.Table, svc *state.Service, from *state.Workload, to capture.OriginalDst) (route, error) {
	if balance.Waypoint(svc) != nil {
		return route{Service: svc}, fmt.Errorf("service %s: %w", svc.Key(), errWaypoint)
	}
	choice, err := balance.Pick(t, svc, to.Port(), from, to.Addr())
	switch {
	case errors.Is(err, balance.ErrPassthrough):
		return route{Addr: to.AddrPort, Service: svc}, nil
	case errors.Is(err, balance.ErrRemoteNetwork):
		return route{Service: svc, Workload: choice.Workload}, fmt.Errorf("service %s: %w", svc.Key(), errRemoteNetwork)
	case err != nil && !errors.Is(err, balance.ErrNeedsDNS):
		return route{Service: svc, Workload: choice.Workload}, fmt.Errorf("service %s: %w", svc.Key(), err)
	}
	return direct(choice.Workload, svc, choice.Addr), nil
}

func toWorkload(w *state.Workload, to capture.OriginalDst) (route, error) {
	if w.Waypoint != nil {
		return route{Workload: w}, fmt.Errorf("workload %s: %w", w.UID, errWaypoint)
	}
	return direct(w, nil, to.AddrPort), nil
}

// direct goes to the workload itself, by the protocol it speaks. Without an address it leaves the protocol to complete.
func direct(w *state.Workload, svc *state.Service, addr netip.AddrPort) route {
	r := route{Addr: addr, Workload: w, Service: svc}
	if w.Protocol != state.HBONE || !addr.Addr().IsValid() {
		return r
	}
	r.Tunnel = true
	r.Authority = hbone.AuthorityFromAddr(addr)
	r.Addr = netip.AddrPortFrom(addr.Addr(), capture.HBONEPort)
	if !w.Identity.IsZero() {
		r.Expected = append(r.Expected, w.Identity)
	}
	if svc != nil {
		r.Expected = append(r.Expected, svc.SANs...)
	}
	return r
}

// complete resolves the name of an endpoint that has no address, to one of the family that the client dialled if possible.
func (h *Handler) complete(ctx context.Context, r route, to capture.OriginalDst) (route, error) {
	if r.Addr.Addr().IsValid() {
		return r, nil
	}
	addrs, err := h.cfg.Resolve(ctx, r.Workload.Hostname)
	if err != nil {
		return r, fmt.Errorf("resolve %s, where workload %s is: %w", r.Workload.Hostname, r.Workload.UID, err)
	}
	addr, ok := oneOf(addrs, to.Addr().Is4())
	if !ok {
		return r, fmt.Errorf("resolve %s, where workload %s is: no address", r.Workload.Hostname, r.Workload.UID)
	}
	return direct(r.Workload, r.Service, netip.AddrPortFrom(addr, r.Addr.Port())), nil
}

// oneOf picks at random among the addresses of the family, else among the others.
func oneOf(addrs []netip.Addr, is4 bool) (netip.Addr, bool) {
	var same, other []netip.Addr
	for _, addr := range addrs {
		if addr = addr.Unmap(); addr.Is4() == is4 {
			same = append(same, addr)
		} else {
			other = append(other, addr)
		}
	}
	if len(same) == 0 {
		same = other
	}
	if len(same) == 0 {
		return netip.Addr{}, false
	}
	return same[rand.IntN(len(same))], true
}
