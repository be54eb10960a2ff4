package redirect

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var errNotSupported = unix.EOPNOTSUPP

// returnPath returns the families of which a half or all of the return path exists.
func (r routing) returnPath() []Route {
	var routes []Route
	for _, v6 := range []bool{false, true} {
		route := Route{IPv6: v6, Policy: slices.ContainsFunc(r[v6].rules, isPolicy), Default: slices.ContainsFunc(r[v6].routes, isLocalDefault)}
		if route.Policy || route.Default {
			routes = append(routes, route)
		}
	}
	return routes
}

func isPolicy(r netlink.Rule) bool {
	return r.Table == routeTable && r.Priority == rulePriority && r.Mark == proxiedMark && r.Mask != nil && *r.Mask == markMask
}

func isLocalDefault(r netlink.Route) bool {
	return r.Table == routeTable && (r.Dst == nil || isDefault(r.Dst))
}

func isDefault(dst *net.IPNet) bool {
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// addRoutes makes the return path of the planned families. The route comes first: a rule to an empty table is harmless,
// but packets must not miss it.
func (p place) addRoutes(planned []Route) error {
	for _, route := range planned {
		if err := p.routes.RouteReplace(localDefault(route.IPv6)); err != nil {
			return fmt.Errorf("route table %d to lo: %w", routeTable, explainRoute(err))
		}
		if err := p.routes.RuleAdd(policy(route.IPv6)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("policy rule %d: %w", rulePriority, err)
		}
	}
	return nil
}

// removeRoutes takes away what exists of the return path, also where it was made twice.
func (p place) removeRoutes(found routing) error {
	for _, route := range found.returnPath() {
		for _, rule := range found[route.IPv6].rules {
			if !isPolicy(rule) {
				continue
			}
			if err := p.routes.RuleDel(policy(route.IPv6)); err != nil && !gone(err) {
				return fmt.Errorf("remove policy rule %d: %w", rulePriority, err)
			}
		}
		if !route.Default {
			continue
		}
		if err := p.routes.RouteDel(localDefault(route.IPv6)); err != nil && !gone(err) {
			return fmt.Errorf("remove route of table %d: %w", routeTable, err)
		}
	}
	return nil
}

func policy(v6 bool) *netlink.Rule {
	mask := uint32(markMask)
	rule := netlink.NewRule()
	rule.Family = familyNumber(v6)
	rule.Priority = rulePriority
	rule.Mark = proxiedMark
	rule.Mask = &mask
	rule.Table = routeTable
	return rule
}

func localDefault(v6 bool) *netlink.Route {
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if v6 {
		everywhere = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{LinkIndex: loopbackIndex, Dst: everywhere, Table: routeTable, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
}

// loopbackIndex is lo's interface index in every network namespace.
const loopbackIndex = 1

func familyNumber(v6 bool) int {
	if v6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// unavailable errors mean that the kernel has no such family here, so nothing of ours can be in it.
func unavailable(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func explainRoute(err error) error {
	if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENETUNREACH) {
		return fmt.Errorf("%w (is lo up in the pod?)", err)
	}
	return err
}
