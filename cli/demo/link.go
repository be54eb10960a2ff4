package demo

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// A bridge in the fabric has one port per node; between node and pod is a routed point-to-point link, so that traffic
// between two pods of a node passes the node's own rules as well.
const bridge = "fabric0"

// uplink is the name of a node's port on the fabric's bridge, where all its traffic with the others can be captured.
func uplink(node string) string { return "up-" + node }

// makeFabric makes the bridge with the fabric's own addresses.
func makeFabric(netns *wire.Netns) error {
	return wire.Links(netns, func(handle *netlink.Handle) error {
		if err := wire.BringUp(handle, "lo"); err != nil {
			return err
		}
		if err := wire.Bridge(handle, bridge); err != nil {
			return err
		}
		return wire.BringUp(handle, bridge, withBits(FabricAddrs(), 24, 64)...)
	})
}

// joinFabric connects node number index with the fabric, and routes each to the other's pods.
func joinFabric(fabricNs, node *wire.Netns, name string, index int) error {
	err := wire.Links(node, func(handle *netlink.Handle) error {
		if err := forward(); err != nil {
			return err
		}
		if err := wire.BringUp(handle, "lo"); err != nil {
			return err
		}
		if err := wire.Pair(handle, "eth0", uplink(name), fabricNs); err != nil {
			return err
		}
		// A machine that restarts has the same network card, and its neighbours still know that.
		card := net.HardwareAddr{2, 0, 0, 0, 0, byte(11 + index)}
		if err := handle.LinkSetHardwareAddr(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}, card); err != nil {
			return fmt.Errorf("set the hardware address: %w", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("connect node %s: %w", name, err)
	}
	err = wire.Links(fabricNs, func(handle *netlink.Handle) error {
		if err := wire.BringUp(handle, uplink(name)); err != nil {
			return err
		}
		if err := wire.Plug(handle, uplink(name), bridge); err != nil {
			return err
		}
		return wire.Route(handle, bridge, podPrefixes(index), nodeAddrs(index))
	})
	if err != nil {
		return fmt.Errorf("connect node %s: %w", name, err)
	}
	return wire.Links(node, func(handle *netlink.Handle) error {
		return wire.BringUp(handle, "eth0", withBits(nodeAddrs(index), 24, 64)...)
	})
}

// routeNodes tells node number index the way to the pods of all others, and to the world.
func routeNodes(node *wire.Netns, index, count int) error {
	return wire.Links(node, func(handle *netlink.Handle) error {
		if err := wire.Route(handle, "eth0", everywhere(), FabricAddrs()); err != nil {
			return err
		}
		for other := range count {
			if other == index {
				continue
			}
			if err := wire.Route(handle, "eth0", podPrefixes(other), nodeAddrs(other)); err != nil {
				return err
			}
		}
		return nil
	})
}

// joinNode connects a pod with its node: host is the link's name on the node.
func joinNode(node, pod *wire.Netns, host string, gateway4 netip.Addr, addrs []netip.Addr) error {
	err := wire.Links(node, func(handle *netlink.Handle) error {
		if err := wire.Pair(handle, host, "eth0", pod); err != nil {
			return err
		}
		// The kernel would make a link-local address of its own and first look for duplicates.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+host+"/addr_gen_mode", []byte("1"), 0); err != nil {
			return fmt.Errorf("prepare link %s: %w", host, err)
		}
		gateways := []netip.Addr{gateway4, netip.MustParseAddr(gatewayV6)}
		if err := wire.BringUp(handle, host, withBits(gateways, 32, 64)...); err != nil {
			return err
		}
		return wire.Route(handle, host, withBits(addrs, 32, 128), nil)
	})
	if err != nil {
		return err
	}
	return wire.Links(pod, func(handle *netlink.Handle) error {
		if err := wire.BringUp(handle, "lo"); err != nil {
			return err
		}
		if err := wire.BringUp(handle, "eth0", withBits(addrs, 32, 128)...); err != nil {
			return err
		}
		return wire.Route(handle, "eth0", everywhere(), []netip.Addr{gateway4, netip.MustParseAddr(gatewayV6)})
	})
}

// forward makes the calling thread's namespace a router.
func forward() error {
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return fmt.Errorf("switch forwarding on: %w", err)
		}
	}
	return nil
}

func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}

// withBits gives a list of an IPv4 and an IPv6 address their prefix lengths.
func withBits(addrs []netip.Addr, bits4, bits6 int) []netip.Prefix {
	var out []netip.Prefix
	for _, addr := range addrs {
		bits := bits4
		if addr.Is6() {
			bits = bits6
		}
		out = append(out, netip.PrefixFrom(addr, bits))
	}
	return out
}
