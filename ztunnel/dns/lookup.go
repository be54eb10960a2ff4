package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/state"
)

// view is everything that an answer from the mesh depends on.
type view struct {
	names
	table     *state.Table
	network   string // of the client
	preferred string // a namespace whose services come before those of others; "" for none
	ipv6      bool   // false: names of the mesh have no IPv6 addresses
}

// answer is what the mesh knows of a name.
type answer struct {
	// canonical is the name that has the addresses, if the question's name is only an alias of it; else "".
	canonical string
	addrs     []netip.Addr // of the family that was asked for; maybe none
}

// lookup finds the addresses of a name, of the IPv4 or the IPv6 kind. It returns false for names that the mesh doesn't
// know, which others have to be asked for. A name that is known is never asked for elsewhere, even if it has no address.
func (v view) lookup(question string, is4 bool) (answer, bool) {
	for a := range v.aliases(question) {
		if svc := v.service(a.name); svc != nil {
			return answer{a.stripped, v.addresses(svc, is4)}, true
		}
		if w := v.member(a.name); w != nil {
			return answer{a.stripped, v.wanted(w.Addresses, state.AutomaticFamilies, is4)}, true
		}
		for wildcard := range wildcards(a.name) {
			if svc := v.service(wildcard); svc != nil {
				return answer{"", v.addresses(svc, is4)}, true
			}
		}
	}
	return answer{}, false
}

// service returns the service of that hostname which the client means, or nil: its own namespace's, else the canonical
// one, else the preferred namespace's, else any.
func (v view) service(hostname string) (best *state.Service) {
	rank := -1
	for _, s := range v.table.ServicesByHost(hostname) {
		r := 0
		switch {
		case !s.VisibleFrom(v.namespace) || !v.answerable(s):
			continue
		case s.Namespace == v.namespace:
			return s
		case s.Canonical:
			r = 2
		case s.Namespace == v.preferred:
			r = 1
		}
		if r > rank {
			best, rank = s, r
		}
	}
	return best
}

// answerable leaves hosts out whose addresses only the rest of the world knows.
func (v view) answerable(s *state.Service) bool { return len(s.VIPs) > 0 || v.inCluster(s.Hostname) }

// inCluster tells Kubernetes' services from others.
func (v view) inCluster(hostname string) bool {
	rest, found := strings.CutSuffix(hostname, v.domain)
	return found && strings.HasSuffix(rest, ".svc.")
}

func (v view) addresses(s *state.Service, is4 bool) []netip.Addr {
	var all []netip.Addr
	for _, vip := range s.VIPs {
		if vip.Network == v.network {
			all = append(all, vip.Addr)
		}
	}
	if len(s.VIPs) == 0 { // headless
		for _, e := range v.table.Endpoints(s) {
			if e.Workload.Network == v.network {
				all = append(all, e.Workload.Addresses...)
			}
		}
	}
	return v.wanted(all, s.IPFamilies, is4)
}

// member returns the workload with a name of its own below a headless service, as the pods of a StatefulSet have it; or nil.
func (v view) member(name string) *state.Workload {
	host, parent, _ := strings.Cut(name, ".")
	if !v.inCluster(parent) {
		return nil
	}
	s := v.service(parent)
	if s == nil || len(s.VIPs) > 0 {
		return nil
	}
	for _, e := range v.table.Endpoints(s) {
		if e.Workload.Name == host && e.Workload.Network == v.network && e.Workload.Namespace == s.Namespace {
			return e.Workload
		}
	}
	return nil
}

// wanted returns the addresses of the family that was asked for, each once.
func (v view) wanted(addrs []netip.Addr, families state.IPFamilies, is4 bool) []netip.Addr {
	if !is4 && !v.ipv6 {
		return nil
	}
	var list []netip.Addr
	for _, addr := range addrs {
		if addr.Is4() == is4 && families.Permit(addr) {
			list = append(list, addr)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
