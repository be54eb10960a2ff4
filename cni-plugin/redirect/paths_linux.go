package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the ebpf engine needs of the pod's routing:
//
//	pref 1      from the proxy, made here   lookup 102    the pod's own addresses, by lo: so the proxy's calls to the app are told from
//	                                                      what comes by the interface that the addresses belong to
//	pref 2      everything                  lookup local  moved, from pref 0
//	pref 32763  what was turned around      lookup 101    everything, by lo
const (
	ownPriority    = 1
	localPriority  = 2
	inwardPriority = 32763
	inwardMark     = 0x540
	inwardTable    = 101
	ownTable       = 102
)

// paths is one state of these rules and routes.
type paths struct {
	rules  []pathRule
	routes []pathRoute
}

type pathRule struct {
	ipv6            bool
	priority, table int
}

type pathRoute struct {
	table int
	to    netip.Prefix
}

// usualLocal is the kernel's own rule, which isn't there while ours are.
func usualLocal(ipv6 bool) pathRule { return pathRule{ipv6, 0, unix.RT_TABLE_LOCAL} }

func (f *ebpfFound) wantedPaths() paths {
	var p paths
	for _, ipv6 := range []bool{false, true} {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if ipv6 {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if ipv6 && !slices.ContainsFunc(f.own, netip.Addr.Is6) {
			continue
		}
		p.rules = append(p.rules, pathRule{ipv6, ownPriority, ownTable}, pathRule{ipv6, localPriority, unix.RT_TABLE_LOCAL}, pathRule{ipv6, inwardPriority, inwardTable})
		p.routes = append(p.routes, pathRoute{inwardTable, everywhere})
		for _, addr := range f.own {
			if addr.Is6() == ipv6 && !addr.IsLinkLocalUnicast() {
				p.routes = append(p.routes, pathRoute{ownTable, netip.PrefixFrom(addr, addr.BitLen())})
			}
		}
	}
	return p
}

// none tells that nothing of ours is there.
func (p paths) none() bool {
	return len(p.routes) == 0 && !slices.ContainsFunc(p.rules, func(r pathRule) bool { return r != usualLocal(r.ipv6) })
}

// has tells that what is there is what is wanted.
func (p paths) has(wanted paths) bool {
	for _, rule := range wanted.rules {
		if !slices.Contains(p.rules, rule) || slices.Contains(p.rules, usualLocal(rule.ipv6)) {
			return false
		}
	}
	for _, route := range wanted.routes {
		if !slices.Contains(p.routes, route) {
			return false
		}
	}
	return true
}

// paths are those that there are.
func (r routing) paths() paths {
	var p paths
	for _, ipv6 := range []bool{false, true} {
		for _, rule := range r[ipv6].rules {
			r := pathRule{ipv6, rule.Priority, rule.Table}
			switch {
			case r == usualLocal(ipv6), r.priority == localPriority && r.table == unix.RT_TABLE_LOCAL,
				r.priority == ownPriority && r.table == ownTable, r.priority == inwardPriority && r.table == inwardTable:
				p.rules = append(p.rules, r)
			}
		}
		for _, route := range r[ipv6].routes {
			if route.Table == inwardTable || route.Table == ownTable {
				p.routes = append(p.routes, pathRoute{route.Table, prefixOf(route.Dst, ipv6)})
			}
		}
	}
	return p
}

// prefixOf understands that a default route may have no destination.
func prefixOf(dst *net.IPNet, ipv6 bool) netip.Prefix {
	if dst != nil {
		ones, _ := dst.Mask.Size()
		addr, _ := netip.AddrFromSlice(dst.IP)
		if !ipv6 {
			addr = addr.Unmap()
		}
		return netip.PrefixFrom(addr, ones)
	}
	if ipv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// add makes what is missing, in an order in which every packet finds its way at every moment.
func (p paths) add(at place, wanted paths) error {
	for _, route := range p.routes {
		if !slices.Contains(wanted.routes, route) { // of an address that the pod had
			if err := at.routes.RouteDel(route.netlink()); err != nil && !gone(err) {
				return fmt.Errorf("remove route to %s from table %d: %w", route.to, route.table, err)
			}
		}
	}
	for _, route := range wanted.routes {
		if err := at.routes.RouteReplace(route.netlink()); err != nil {
			return fmt.Errorf("route to %s by lo in table %d: %w", route.to, route.table, explainRoute(err))
		}
	}
	for _, rule := range wanted.rules {
		if slices.Contains(p.rules, rule) {
			continue
		}
		if err := at.routes.RuleAdd(rule.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("policy rule %d: %w", rule.priority, err)
		}
	}
	for _, rule := range p.rules {
		if rule == usualLocal(rule.ipv6) && slices.Contains(wanted.rules, pathRule{rule.ipv6, localPriority, unix.RT_TABLE_LOCAL}) {
			if err := at.routes.RuleDel(rule.netlink()); err != nil && !gone(err) {
				return fmt.Errorf("remove policy rule %d, which has been moved: %w", rule.priority, err)
			}
		}
	}
	return nil
}

// remove puts everything back.
func (p paths) remove(at place) error {
	for _, rule := range p.rules {
		if rule.priority != localPriority {
			continue
		}
		if err := at.routes.RuleAdd(usualLocal(rule.ipv6).netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("policy rule 0, which had been moved: %w", err)
		}
	}
	for _, rule := range p.rules {
		if rule == usualLocal(rule.ipv6) {
			continue
		}
		if err := at.routes.RuleDel(rule.netlink()); err != nil && !gone(err) {
			return fmt.Errorf("remove policy rule %d: %w", rule.priority, err)
		}
	}
	for _, route := range p.routes {
		if err := at.routes.RouteDel(route.netlink()); err != nil && !gone(err) {
			return fmt.Errorf("remove route to %s from table %d: %w", route.to, route.table, err)
		}
	}
	return nil
}

func (r pathRule) netlink() *netlink.Rule {
	mask := uint32(markMask)
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = familyNumber(r.ipv6), r.priority, r.table
	switch r.table {
	case ownTable:
		rule.IifName, rule.Mark, rule.Mask = "lo", proxyMark, &mask
	case inwardTable:
		rule.Mark, rule.Mask = inwardMark, &mask
	default:
		rule.Protocol = unix.RTPROT_KERNEL
	}
	return rule
}

func (r pathRoute) netlink() *netlink.Route {
	to := &net.IPNet{IP: r.to.Addr().AsSlice(), Mask: net.CIDRMask(r.to.Bits(), r.to.Addr().BitLen())}
	return &netlink.Route{LinkIndex: loopbackIndex, Dst: to, Table: r.table, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
}

// String lists them in the manner of the ip command.
func (p paths) String() string {
	var b strings.Builder
	for _, r := range p.rules {
		if !slices.ContainsFunc(p.rules, func(other pathRule) bool { return other.ipv6 == r.ipv6 && other != r }) {
			continue // this family's is as usual
		}
		fmt.Fprintf(&b, "ip%s rule pref %d lookup %d\n", map[bool]string{true: " -6"}[r.ipv6], r.priority, r.table)
	}
	for _, r := range p.routes {
		fmt.Fprintf(&b, "ip route local %s dev lo table %d\n", r.to, r.table)
	}
	return b.String()
}
