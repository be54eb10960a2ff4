package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links runs f with a netlink handle of a namespace.
func Links(netns *Netns, f func(*netlink.Handle) error) error {
	return netns.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer handle.Close()
		return f(handle)
	})
}

// BringUp switches a link on and gives it addresses, without waiting for duplicate detection.
func BringUp(handle *netlink.Handle, name string, addrs ...netip.Prefix) error {
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

// Pair makes two ends of a cable, the far one in another namespace.
func Pair(handle *netlink.Handle, near, far string, farNs *Netns) error {
	file, err := os.Open(farNs.Path)
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

// Bridge makes a bridge.
func Bridge(handle *netlink.Handle, name string) error {
	if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return nil
}

// Plug makes a link a port of a bridge.
func Plug(handle *netlink.Handle, port, bridge string) error {
	link, master := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: port}}, &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
	if err := handle.LinkSetMaster(link, master); err != nil {
		return fmt.Errorf("put link %s on bridge %s: %w", port, bridge, err)
	}
	return nil
}

// Route sends each destination out of a link, through the gateway of the same position if there are gateways.
func Route(handle *netlink.Handle, link string, to []netip.Prefix, via []netip.Addr) error {
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

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
