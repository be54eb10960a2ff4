// Package netns makes real network namespaces for tests, joined by real links, and removes them when the test ends.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

const folder = "/run/netns" // where `ip netns` looks

// Namespace is a network namespace with its loopback up. It is removed when the test ends.
type Namespace struct {
	*socket.Netns
	Name string // as `ip netns` lists it
	Path string // its file
	t    testing.TB
}

// New makes a namespace called prefix-<pid>-<number>. It fails the test where it isn't run as root, and skips it with
// -short, which means without root.
func New(t testing.TB, prefix string) *Namespace {
	t.Helper()
	if testing.Short() {
		t.Skip("this test makes network namespaces: run it as root and without -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	path, err := create(prefix)
	if err != nil {
		t.Fatalf("make network namespace %s: %v", prefix, err)
	}
	n := &Namespace{Name: filepath.Base(path), Path: path, t: t}
	t.Cleanup(n.Remove)
	if n.Netns, err = socket.OpenNetns(n.Path); err != nil {
		t.Fatal(err)
	}
	n.must(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// create binds a new namespace to the first free of the files <prefix>-<pid>-<number>. The thread that lived in it ends with its goroutine.
func create(prefix string) (path string, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	for number := 0; ; number++ {
		path = filepath.Join(folder, fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), number))
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
		if err == nil {
			file.Close()
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("unshare: %w", err)
			return
		}
		result <- unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
	}()
	if err := <-result; err != nil {
		os.Remove(path)
		return "", err
	}
	return path, nil
}

// Remove takes the namespace away before the test ends, as a deleted pod's runtime does. Calling it again does nothing.
func (n *Namespace) Remove() {
	if _, err := os.Stat(n.Path); err != nil {
		return
	}
	if n.Netns != nil {
		n.Netns.Close()
	}
	if err := unix.Unmount(n.Path, unix.MNT_DETACH); err != nil {
		n.t.Errorf("unmount %s: %v", n.Path, err)
	}
	if err := os.Remove(n.Path); err != nil {
		n.t.Error(err)
	}
}

// File opens the namespace once more, as an agent does that hands its descriptor on. The caller closes it.
func (n *Namespace) File() *os.File {
	n.t.Helper()
	file, err := os.Open(n.Path)
	if err != nil {
		n.t.Fatal(err)
	}
	return file
}

// Connect joins two namespaces by a link with the same name in both, and gives it addresses of either family.
func Connect(a, b *Namespace, link string, addrsA, addrsB []netip.Prefix) {
	a.t.Helper()
	file := b.File()
	defer file.Close()
	a.must(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = link
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: link, PeerNamespace: netlink.NsFd(int(file.Fd()))})
	})
	a.up(link)
	b.up(link)
	a.address(link, addrsA)
	b.address(link, addrsB)
}

// up switches the link on, without the seconds in which IPv6 looks for duplicates of its addresses.
func (n *Namespace) up(link string) {
	n.t.Helper()
	n.Sysctl("net.ipv6.conf."+link+".accept_dad", "0")
	n.must(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
}

func (n *Namespace) address(link string, addrs []netip.Prefix) {
	n.t.Helper()
	n.must(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		for _, prefix := range addrs {
			addr := &netlink.Addr{IPNet: ipNet(prefix)}
			if prefix.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return fmt.Errorf("add %s: %w", prefix, err)
			}
		}
		return nil
	})
}

// Route sends packets to a prefix through a neighbour.
func (n *Namespace) Route(to netip.Prefix, via netip.Addr) {
	n.t.Helper()
	n.must(func() error { return netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}) })
}

// Neighbour sends packets to prefixes out of a link without a router between.
func (n *Namespace) Neighbour(link string, to ...netip.Prefix) {
	n.t.Helper()
	n.must(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		for _, prefix := range to {
			route := &netlink.Route{Dst: ipNet(prefix), LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK}
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("route to %s: %w", prefix, err)
			}
		}
		return nil
	})
}

// Local makes the namespace accept packets to a prefix that none of its links has.
func (n *Namespace) Local(to netip.Prefix) {
	n.t.Helper()
	n.must(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL})
	})
}

// Sysctl sets a kernel parameter such as net.ipv4.ip_forward, in this namespace only.
func (n *Namespace) Sysctl(name, value string) {
	n.t.Helper()
	n.must(func() error {
		return os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
	})
}

func (n *Namespace) must(f func() error) {
	n.t.Helper()
	if err := n.Do(f); err != nil {
		n.t.Fatalf("network namespace %s: %v", n.Name, err)
	}
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}
