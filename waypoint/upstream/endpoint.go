// Package upstream reaches the servers behind a waypoint: it chooses one of a service's endpoints, and connects to it by a tunnel or in plain
// text.
package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/mesh/balance"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/state"
)

// MaxTries is how many endpoints are tried for one connection or request before it has failed.
const MaxTries = 3

// tunnelPort is where workloads take tunnels.
const tunnelPort = 15008

var errNoIdentity = errors.New("it has no identity that it could prove: see that its trust domain, namespace and service account make a SPIFFE id")

// Endpoint is one instance of a destination.
type Endpoint struct {
	Workload *state.Workload
	Service  *state.Service // through which it was chosen; nil for a workload's own address
	Addr     netip.AddrPort // of its application; without an IP if Host has to be resolved
	Host     string         // "" if Addr is complete
	// Expected are the identities that it may prove. There is none if it is reached in plain text.
	Expected []identity.Workload
}

// Dialled is where a connection to it goes.
func (e *Endpoint) Dialled() netip.AddrPort {
	if e.Tunnelled() {
		return netip.AddrPortFrom(e.Addr.Addr(), tunnelPort)
	}
	return e.Addr
}

// Tunnelled tells that both sides prove their identities.
func (e *Endpoint) Tunnelled() bool { return len(e.Expected) > 0 }

// Known is what is known of endpoints; the zero Known is nothing.
type Known struct {
	Open   *balance.Open   // of the whole program
	Health *balance.Health // of one worker
}

// Choice is the endpoints of a destination, one after the other.
type Choice struct {
	Service  *state.Service  // or else
	Workload *state.Workload // the only endpoint
	Port     uint16          // of either
	Dialled  netip.Addr      // endpoints have addresses of the same family where possible; may be the zero Addr

	tried []string // uids
}

// Next chooses an endpoint that wasn't tried yet. self is the waypoint, as whose neighbours endpoints are preferred.
func (c *Choice) Next(t *state.Table, self *state.Workload, known Known) (Endpoint, error) {
	if len(c.tried) >= MaxTries {
		return Endpoint{}, fmt.Errorf("%w: %d endpoints were tried", balance.ErrNoEndpoint, len(c.tried))
	}
	e, err := c.choose(t, self, known)
	if err == nil {
		c.tried = append(c.tried, e.Workload.UID)
	}
	return e, err
}

// More tells whether Next would find one.
func (c *Choice) More(t *state.Table, self *state.Workload) bool {
	if self == nil {
		return false
	}
	probe := *c
	probe.tried = slices.Clone(c.tried)
	_, err := probe.Next(t, self, Known{})
	return err == nil
}

// Untried has the last one chosen again as if it hadn't been.
func (c *Choice) Untried() { c.tried = c.tried[:len(c.tried)-1] }

// Again lets those be chosen again that were tried, if there is no other.
func (c *Choice) Again(t *state.Table, self *state.Workload) {
	if !c.More(t, self) {
		c.tried = nil
	}
}

func (c *Choice) choose(t *state.Table, self *state.Workload, known Known) (Endpoint, error) {
	if c.Workload != nil {
		if len(c.tried) > 0 {
			return Endpoint{}, balance.ErrNoEndpoint
		}
		return endpoint(c.Workload, nil, netip.AddrPortFrom(c.Dialled, c.Port))
	}
	dialled := c.Dialled
	if !dialled.IsValid() && len(self.Addresses) > 0 {
		dialled = self.Addresses[0]
	}
	client := balance.Client{Table: t, From: self, Dialled: dialled, Tried: c.tried, Open: known.Open, Health: known.Health}
	chosen, err := client.Pick(c.Service, c.Port)
	switch {
	case errors.Is(err, balance.ErrNeedsDNS):
		e, err := endpoint(chosen.Workload, c.Service, chosen.Addr)
		e.Host = chosen.Workload.Hostname
		return e, err
	case err != nil:
		return Endpoint{Workload: chosen.Workload, Service: c.Service}, err
	}
	return endpoint(chosen.Workload, c.Service, chosen.Addr)
}

// endpoint is a workload as it takes its connections.
func endpoint(w *state.Workload, svc *state.Service, addr netip.AddrPort) (Endpoint, error) {
	e := Endpoint{Workload: w, Service: svc, Addr: addr}
	if w.Protocol != state.HBONE {
		return e, nil
	}
	if svc != nil {
		e.Expected = svc.SANs
	}
	if !w.Identity.IsZero() && !slices.Contains(e.Expected, w.Identity) {
		e.Expected = append([]identity.Workload{w.Identity}, e.Expected...)
	}
	if len(e.Expected) == 0 {
		return e, fmt.Errorf("workload %s: %w", w.UID, errNoIdentity)
	}
	return e, nil
}
