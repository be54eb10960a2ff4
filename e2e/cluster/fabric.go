package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/tulle-mesh/tulle/cli/wire"
)

const bridge = "fabric0"

// place is the file of the network namespace of a node or of the fabric. It isn't with those of others, who may mount something over them.
func place(spec Spec, name string) string { return filepath.Join(spec.Dir, "netns", name) }

var everywhere = netip.MustParsePrefix("0.0.0.0/0")

// makeFabric makes what connects the nodes, with the ways to their pods and to the services.
func makeFabric(spec Spec) (*wire.Netns, error) {
	netns, err := wire.Make(place(spec, "fabric"))
	if err != nil {
		return nil, err
	}
	err = wire.Links(netns, func(handle *netlink.Handle) error {
		if err := errors.Join(wire.BringUp(handle, "lo"), wire.Bridge(handle, bridge)); err != nil {
			return err
		}
		if err := wire.BringUp(handle, bridge, netip.PrefixFrom(spec.Fabric(), 24)); err != nil {
			return err
		}
		to, via := []netip.Prefix{spec.Services()}, []netip.Addr{spec.Address(1)}
		for node := 1; node <= spec.Nodes; node++ {
			to, via = append(to, spec.Pods(node)), append(via, spec.Address(node))
		}
		return wire.Route(handle, bridge, to, via)
	})
	if err != nil {
		return nil, fmt.Errorf("connect the nodes: %w", err)
	}
	return netns, nil
}

// plug makes a node's network namespace and connects it.
func plug(spec Spec, fabric *wire.Netns, node int) (*wire.Netns, error) {
	port := spec.NodeName(node)
	netns, err := wire.Make(place(spec, port))
	if err != nil {
		return nil, err
	}
	err = wire.Links(netns, func(handle *netlink.Handle) error {
		return errors.Join(routes(), wire.BringUp(handle, "lo"), wire.Pair(handle, "eth0", port, fabric))
	})
	if err != nil {
		return nil, fmt.Errorf("connect node %s: %w", port, err)
	}
	err = wire.Links(fabric, func(handle *netlink.Handle) error {
		return errors.Join(wire.BringUp(handle, port), wire.Plug(handle, port, bridge))
	})
	if err != nil {
		return nil, fmt.Errorf("connect node %s: %w", port, err)
	}
	to, via := []netip.Prefix{everywhere}, []netip.Addr{spec.Fabric()}
	for other := 1; other <= spec.Nodes; other++ {
		if other != node {
			to, via = append(to, spec.Pods(other)), append(via, spec.Address(other))
		}
	}
	return netns, wire.Links(netns, func(handle *netlink.Handle) error {
		if err := wire.BringUp(handle, "eth0", netip.PrefixFrom(spec.Address(node), 24)); err != nil {
			return err
		}
		return wire.Route(handle, "eth0", to, via)
	})
}

// routes makes the calling thread's namespace a router that takes packets wherever they come from.
func routes() error {
	for name, value := range map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0", "conf/default/rp_filter": "0"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// unplug undoes plug, if there is anything. The kernel takes the namespace apart later, so the link is cut first.
func unplug(spec Spec, node int) error {
	fabric, err := wire.Open(place(spec, "fabric"))
	if err == nil {
		wire.Links(fabric, func(handle *netlink.Handle) error {
			return handle.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: spec.NodeName(node)}}) // or it isn't there
		})
		fabric.Close()
	}
	return wire.Remove(place(spec, spec.NodeName(node)))
}
