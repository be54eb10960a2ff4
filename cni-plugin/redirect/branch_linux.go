package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A pod may have an interface of the cloud's network for itself: AWS VPC CNI gives one to a pod with security groups of its own. Then all
// that comes from the pod's link is routed by a table of that interface, even what is for the node: the answers to its probes get lost.
// Two rules mend that, for each such pod: what is for it goes straight to its link, and what comes from there is looked up among the node's
// own addresses first.
//
// That plugin switches the node's early demultiplexing off, without which the second one alone wouldn't be needed: where it's on, nothing is
// done.

const (
	earlyDemux     = "net.ipv4.tcp_early_demux" // of IPv6 as well
	branchPriority = 512                        // Istio's
	branchOwner    = 0x54                       // the protocol of our rules, by which they are known again
)

// branchRule is one of them: for what goes to an address, or what comes from a link.
type branchRule struct {
	priority, table int
	to              netip.Addr
	from            string
}

// planBranches lists the rules for the addresses of enrolled pods, of one family. It is a pure function.
func planBranches(addrs []netip.Addr, rules []netlink.Rule, routes []netlink.Route, links map[int]string) (wanted []branchRule) {
	for _, route := range routes {
		addr, ok := onlyAddress(route.Dst)
		if !ok || route.Table == unix.RT_TABLE_MAIN || route.Table == unix.RT_TABLE_LOCAL || !slices.Contains(addrs, addr) {
			continue
		}
		for _, rule := range rules {
			if link := links[route.LinkIndex]; link != "" && rule.IifName == link && rule.Table == route.Table && rule.Priority > 0 {
				wanted = append(wanted, branchRule{priority: branchPriority, table: route.Table, to: addr},
					branchRule{priority: rule.Priority - 1, table: unix.RT_TABLE_LOCAL, from: link})
				break
			}
		}
	}
	return wanted
}

// onlyAddress is that of a network of one address.
func onlyAddress(network *net.IPNet) (netip.Addr, bool) {
	if network == nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(network.IP)
	ones, bits := network.Mask.Size()
	return addr.Unmap(), ok && ones == bits
}

// routeBranches makes the rules what they must be for the addresses of enrolled pods, and takes away what they needn't be any more.
func (p place) routeBranches(addrs []netip.Addr) error {
	early, err := readSysctl(earlyDemux)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // older kernels have it in the node's first namespace only
		return err
	}
	for _, v6 := range []bool{false, true} {
		rules, err := p.routes.RuleList(familyNumber(v6))
		if unavailable(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list the node's policy rules: %w", err)
		}
		var wanted []branchRule
		if early == "0" && len(addrs) > 0 {
			if wanted, err = p.lookForBranches(v6, addrs, rules); err != nil {
				return err
			}
		}
		if err := p.replaceBranches(v6, branchRules(rules), wanted); err != nil {
			return err
		}
	}
	return nil
}

func (p place) lookForBranches(v6 bool, addrs []netip.Addr, rules []netlink.Rule) ([]branchRule, error) {
	routes, err := p.routes.RouteListFiltered(familyNumber(v6), &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the node's routes: %w", err)
	}
	links, err := p.routes.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return planBranches(addrs, rules, routes, names), nil
}

// branchRules are those of ours.
func branchRules(rules []netlink.Rule) (ours []branchRule) {
	for _, rule := range rules {
		if rule.Protocol == branchOwner {
			to, _ := onlyAddress(rule.Dst)
			ours = append(ours, branchRule{priority: rule.Priority, table: rule.Table, to: to, from: rule.IifName})
		}
	}
	return ours
}

func (p place) replaceBranches(v6 bool, found, wanted []branchRule) error {
	for _, rule := range wanted {
		if slices.Contains(found, rule) {
			continue
		}
		if err := p.routes.RuleAdd(rule.netlink(v6)); err != nil {
			return fmt.Errorf("add policy rule %d to the node: %w", rule.priority, err)
		}
		found = append(found, rule)
	}
	for _, rule := range found {
		if slices.Contains(wanted, rule) {
			continue
		}
		if err := p.routes.RuleDel(rule.netlink(v6)); err != nil && !gone(err) {
			return fmt.Errorf("remove policy rule %d from the node: %w", rule.priority, err)
		}
	}
	return nil
}

func (r branchRule) netlink(v6 bool) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.IifName, rule.Protocol = familyNumber(v6), r.priority, r.table, r.from, branchOwner
	if r.to.IsValid() {
		rule.Dst = &net.IPNet{IP: r.to.AsSlice(), Mask: net.CIDRMask(r.to.BitLen(), r.to.BitLen())}
	}
	return rule
}
