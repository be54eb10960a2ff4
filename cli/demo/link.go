package demo

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A bridge in the fabric has one port per node; between node and pod is a routed point-to-point link, so that traffic
// between two pods of a node passes the node's own rules as well.
const bridge = "fabric0"

// uplink is the name of a node's port on the fabric's bridge, where all its traffic with the others can be captured.
func uplink(node string) string { return "up-" + node }

// links runs f with a netlink handle of a namespace.
func links(netns *Netns, f func(*netlink.Handle) error) error {
	return netns.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer handle.Close()
		return f(handle)
	})
}

// bringUp switches a link on and gives it addresses, without waiting for duplicate detection.
func bringUp(handle *netlink.Handle, name string, addrs ...netip.Prefix) error {
	link, err := handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("switch link %s on: %w", name, err)
	}
	for _, addr := range addrs {
		entry := &netlink.Addr{IPNet: ipNet(addr)}
		if addr.Addr().Is6() {
			entry.Flags = unix.IFA_F_NODAD
		}
		if err := handle.AddrAdd(link, entry); err != nil {
			return fmt.Errorf("give link %s address %s: %w", name, addr, err)
		}
	}
	return nil
}

// makeFabric makes the bridge with the fabric's own addresses.
func makeFabric(netns *Netns) error {
	return links(netns, func(handle *netlink.Handle) error {
		if err := bringUp(handle, "lo"); err != nil {
			return err
		}
		link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
		if err := handle.LinkAdd(link); err != nil {
			return fmt.Errorf("make the bridge between the nodes: %w", err)
		}
		return bringUp(handle, bridge, withBits(FabricAddrs(), 24, 64)...)
	})
}

// joinFabric connects node number index with the fabric, and routes each to the other's pods.
func joinFabric(fabricNs, node *Netns, name string, index int) error {
	err := links(node, func(handle *netlink.Handle) error {
		if err := forward(); err != nil {
			return err
		}
		if err := bringUp(handle, "lo"); err != nil {
			return err
		}
		return makePair(handle, "eth0", uplink(name), fabricNs)
	})
	if err != nil {
		return fmt.Errorf("connect node %s: %w", name, err)
	}
	err = links(fabricNs, func(handle *netlink.Handle) error {
		if err := bringUp(handle, uplink(name)); err != nil {
			return err
		}
		port, master := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: uplink(name)}}, &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
		if err := handle.LinkSetMaster(port, master); err != nil {
			return fmt.Errorf("put %s on the bridge: %w", uplink(name), err)
		}
		return route(handle, bridge, podPrefixes(index), nodeAddrs(index))
	})
	if err != nil {
		return fmt.Errorf("connect node %s: %w", name, err)
	}
	return links(node, func(handle *netlink.Handle) error {
		return bringUp(handle, "eth0", withBits(nodeAddrs(index), 24, 64)...)
	})
}

// routeNodes tells node number index the way to the pods of all others, and to the world.
func routeNodes(node *Netns, index, count int) error {
	return links(node, func(handle *netlink.Handle) error {
		if err := route(handle, "eth0", everywhere(), FabricAddrs()); err != nil {
			return err
		}
		for other := range count {
			if other == index {
				continue
			}
			if err := route(handle, "eth0", podPrefixes(other), nodeAddrs(other)); err != nil {
				return err
			}
		}
		return nil
	})
}

// joinNode connects a pod with its node: host is the link's name on the node.
func joinNode(node, pod *Netns, host string, gateway4 netip.Addr, addrs []netip.Addr) error {
	err := links(node, func(handle *netlink.Handle) error {
		if err := makePair(handle, host, "eth0", pod); err != nil {
			return err
		}
		// The kernel would make a link-local address of its own and first look for duplicates.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+host+"/addr_gen_mode", []byte("1"), 0); err != nil {
			return fmt.Errorf("prepare link %s: %w", host, err)
		}
		gateways := []netip.Addr{gateway4, netip.MustParseAddr(gatewayV6)}
		if err := bringUp(handle, host, withBits(gateways, 32, 64)...); err != nil {
			return err
		}
		return route(handle, host, withBits(addrs, 32, 128), nil)
	})
	if err != nil {
		return err
	}
	return links(pod, func(handle *netlink.Handle) error {
		if err := bringUp(handle, "lo"); err != nil {
			return err
		}
		if err := bringUp(handle, "eth0", withBits(addrs, 32, 128)...); err != nil {
			return err
		}
		return route(handle, "eth0", everywhere(), []netip.Addr{gateway4, netip.MustParseAddr(gatewayV6)})
	})
}

// makePair makes two ends of a cable, the far one in another namespace.
func makePair(handle *netlink.Handle, near, far string, farNs *Netns) error {
	file, err := os.Open(farNs.path())
	if err != nil {
		return fmt.Errorf("make link %s: %w", near, err)
	}
	defer file.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = near
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsFd(file.Fd())}
	if err := handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link %s: %w", near, err)
	}
	return nil
}

// route sends each destination out of a link, through the gateway of the same position if there are gateways.
func route(handle *netlink.Handle, link string, to []netip.Prefix, via []netip.Addr) error {
	device, err := handle.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", link, err)
	}
	for i, prefix := range to {
		entry := &netlink.Route{LinkIndex: device.Attrs().Index, Dst: ipNet(prefix)}
		if via != nil {
			entry.Gw = via[i].AsSlice()
			entry.Flags = int(netlink.FLAG_ONLINK)
		}
		if err := handle.RouteAdd(entry); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route %s over %s: %w", prefix, link, err)
		}
	}
	return nil
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

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
