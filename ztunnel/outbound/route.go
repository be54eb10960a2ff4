package outbound

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
)

// errNoIdentity: nobody could be told from the right peer.
var errNoIdentity = errors.New("it has no identity that it could prove, so it can't be reached by a tunnel: see that its trust domain, namespace and service account make a SPIFFE id, or that its service lists identities")

// Kind is how a connection goes.
type Kind uint8

// The kinds of routes.
const (
	Passthrough Kind = iota // plain TCP to where the client wanted: the mesh has no say in it
	Plain                   // plain TCP to a workload
	Direct                  // a tunnel to a workload
	Waypoint                // a tunnel to a waypoint, which goes on from there
	Double                  // a tunnel to the gateway of another network, and within it a tunnel to a workload there
)

// Tunnelled tells that both sides prove their identities.
func (k Kind) Tunnelled() bool { return k >= Direct }

func (k Kind) tunnels() uint8 {
	switch {
	case k == Double:
		return 2
	case k.Tunnelled():
		return 1
	}
	return 0
}

// Hop is one tunnel, or a plain connection.
type Hop struct {
	Addr      netip.AddrPort // to dial
	Authority hbone.Authority
	Expected  []identity.Workload // never empty for a tunnel
}

// Route is where a connection goes, and how.
type Route struct {
	Kind Kind
	Hop
	Inner *Hop   // with Double: the tunnel in the tunnel, which has no address; its request names the client's network
	Host  string // unless "": Addr lacks its IP until this is resolved; see Resolved

	Workload *state.Workload // at the end of Hop; nil with Passthrough
	Remote   *state.Workload // with Double: what was chosen in the other network
	Service  *state.Service  // that the client dialled, or nil
	port     uint16          // of the application, with Direct
}

// Count adds n connections to what the route leads to.
func (r *Route) Count(open *balance.Open, n int) {
	for _, w := range [...]*state.Workload{r.Workload, r.Remote} {
		if w != nil {
			open.Add(w, n)
		}
	}
}

// target returns the port of Workload that takes the connection in the end.
func (r *Route) target() uint16 {
	if r.Kind == Direct {
		return r.port
	}
	return r.Addr.Port()
}

// Resolved completes a route by what a resolver said of its Host, with an address of the family that the client dialled if
// possible.
func (r Route) Resolved(addrs []netip.Addr, err error, to capture.OriginalDst) (Route, error) {
	if err != nil {
		return r, fmt.Errorf("resolve %s, where workload %s is: %w", r.Host, r.Workload.UID, err)
	}
	addr, ok := oneOf(addrs, to.Addr().Is4())
	if !ok {
		return r, fmt.Errorf("resolve %s, where workload %s is: no address", r.Host, r.Workload.UID)
	}
	r.Host, r.Addr = "", netip.AddrPortFrom(addr, r.Addr.Port())
	if r.Kind == Direct {
		r.Authority = hbone.AuthorityFromAddr(netip.AddrPortFrom(addr, r.port))
	}
	return r, nil
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

// direct goes to a workload as it takes its connections. The IP of addr may be missing, if the workload has a hostname.
func direct(w *state.Workload, svc *state.Service, addr netip.AddrPort) (Route, error) {
	r := Route{Kind: Plain, Hop: Hop{Addr: addr}, Workload: w, Service: svc}
	if w.Protocol == state.HBONE {
		r.Kind, r.port = Direct, addr.Port()
		r.Addr = netip.AddrPortFrom(addr.Addr(), capture.HBONEPort)
		r.Authority = hbone.AuthorityFromAddr(addr)
		r.Expected = expected(w, svc)
	}
	return r.checked()
}

// checked refuses a tunnel to nobody in particular, and says what has to be resolved.
func (r Route) checked() (Route, error) {
	if r.Kind.Tunnelled() && len(r.Expected) == 0 {
		return r, fmt.Errorf("workload %s: %w", r.Workload.UID, errNoIdentity)
	}
	if !r.Addr.Addr().IsValid() {
		r.Host = r.Workload.Hostname
	}
	return r, nil
}

// expected are the identities that a workload may prove when it is reached through the service, if any; each once, since
// those who expect the same share a tunnel.
func expected(w *state.Workload, svc *state.Service) []identity.Workload {
	var also []identity.Workload
	if svc != nil {
		also = svc.SANs
	}
	if w.Identity.IsZero() || slices.Contains(also, w.Identity) {
		return also
	}
	return append(append(make([]identity.Workload, 0, 1+len(also)), w.Identity), also...)
}
