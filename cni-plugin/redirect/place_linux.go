package redirect

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// place is a namespace. Its sockets are opened once for all that is read and written there.
type place struct {
	id     socket.NetnsID
	routes *netlink.Handle
	rules  *nftables.Conn
}

// openPlace is called on a thread in the namespace.
func openPlace(id socket.NetnsID) (place, error) {
	routes, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return place{}, fmt.Errorf("open rtnetlink: %w", err)
	}
	rules, err := nftables.New(nftables.AsLasting())
	if err != nil {
		routes.Close()
		return place{}, fmt.Errorf("open nftables: %w", err)
	}
	return place{id, routes, rules}, nil
}

// close waits for nobody: after rules were taken away, the kernel closes only when no processor reads them any more.
func (p place) close() {
	p.routes.Close()
	go p.rules.CloseLasting()
}

// aside runs f on another goroutine than the one that is locked to a thread in the namespace, which a connection needs no more once it
// is open. The library for nftables waits for a goroutine of its own with each packet, and that takes a locked one two changes of threads.
func aside(f func() error) error {
	done := make(chan error)
	go func() { done <- f() }()
	return <-done
}

// routing is what a namespace's policy rules and local routes are, of each family.
type routing map[bool]familyRouting // by whether it's IPv6

type familyRouting struct {
	rules  []netlink.Rule
	routes []netlink.Route
}

func (p place) readRouting() (routing, error) {
	read := routing{}
	for _, ipv6 := range []bool{false, true} {
		rules, err := p.routes.RuleList(familyNumber(ipv6))
		if err != nil && !unavailable(err) {
			return nil, fmt.Errorf("list policy rules: %w", err)
		}
		filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_LOCAL}
		routes, err := p.routes.RouteListFiltered(familyNumber(ipv6), filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if err != nil && !unavailable(err) {
			return nil, fmt.Errorf("list local routes: %w", err)
		}
		read[ipv6] = familyRouting{rules, routes}
	}
	return read, nil
}
