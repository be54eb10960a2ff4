package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// defaultDeny stands for a network policy that lets nobody in, as network plugins do it: what is forwarded to the pods is dropped, what
// the node itself sends from its own addresses passes.
const defaultDeny = `table inet default-deny {
	chain forward {
		type filter hook forward priority filter
		ip daddr { %[1]s } drop
		ip6 daddr { %[2]s } drop
	}
	chain output {
		type filter hook output priority filter
		ip daddr { %[1]s } ip saddr != { %[3]s } drop
		ip6 daddr { %[2]s } ip6 saddr != { %[4]s } drop
	}
}
`

// deny puts a default deny for pods into their node for the time of a test.
func deny(t *testing.T, c *demo.Cluster, node string, pods ...string) {
	t.Helper()
	var to [2]string
	for family := range to {
		for _, pod := range pods {
			to[family] += podAddr(c, pod, family, 0).Addr().String() + ", "
		}
	}
	shell(t, c, node, fmt.Sprintf("nft -f - <<.\n"+defaultDeny+".", to[0], to[1], "10.244.1.1, 192.168.250.11", "fe80::1, fd00:250::11"))
	t.Cleanup(func() { shell(t, c, node, "nft delete table inet default-deny") })
}

func shell(t *testing.T, c *demo.Cluster, place, line string) {
	t.Helper()
	command, err := c.Command(place, []string{"sh", "-c", line})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, &out)
	}
}

// The kubelet, which a process in the node's own network stands for, probes its pods whatever the mesh and the network's policies say of
// others; and what it does for port-forward and exec happens in the pod, where nothing is captured.
func TestTheKubeletReachesItsPodsWhateverIsDenied(t *testing.T) {
	lastToo(t, theKubeletReachesItsPodsWhateverIsDenied)
}

func theKubeletReachesItsPodsWhateverIsDenied(t *testing.T, c *demo.Cluster) {
	const node, other = "node1", "node2"
	both := func(check func(t *testing.T, from string, to netip.AddrPort), from string, port uint16, pods ...string) {
		t.Helper()
		for family := range 2 {
			for _, pod := range pods {
				check(t, from, podAddr(c, pod, family, port))
			}
		}
	}
	passes := func(t *testing.T, from string, to netip.AddrPort) { t.Helper(); served(t, c, from, to) }
	blocked := func(t *testing.T, from string, to netip.AddrPort) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := reaches(ctx, c, from, to); err == nil {
			t.Errorf("%s reaches %s", from, to)
		}
	}
	probe := func(t *testing.T, from string, to netip.AddrPort) { // by HTTP, and by TCP alone
		t.Helper()
		for range 5 { // none may fail
			if err := reaches(t.Context(), c, from, to); err != nil {
				t.Errorf("probe by HTTP of %s: %v", to, err)
			}
			dial(t, c, from, to).Close()
		}
	}
	both(passes, stranger, web, client, near)
	deny(t, c, node, client, near)
	both(blocked, stranger, web, client, near) // so the policy works
	both(probe, node, web, client, near)
	apply(t, c, "strict", strictApp, 1)
	both(probe, node, web, client, near)
	both(blocked, stranger, web, client, near)
	shell(t, c, node, "nft flush table inet default-deny")
	both(func(t *testing.T, from string, to netip.AddrPort) { t.Helper(); refused(t, c, from, to) }, stranger, web, client, near)
	both(func(t *testing.T, from string, to netip.AddrPort) { t.Helper(); refused(t, c, from, to) }, other, web, client, near) // not its kubelet
	both(probe, node, web, client, near)
	both(func(t *testing.T, from string, to netip.AddrPort) { // the kubelet is root
		t.Helper()
		if err := knockAs(c, 1000, from, to); err == nil {
			t.Errorf("another user of %s reaches %s", from, to)
		}
		if err := knockAs(c, 0, from, to); err != nil {
			t.Errorf("root of %s doesn't reach %s: %v", from, to, err)
		}
	}, node, web, client, near)
	for _, pod := range []string{client, near} { // port-forward and exec
		probe(t, pod, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), web))
		probe(t, pod, netip.AddrPortFrom(netip.IPv6Loopback(), web))
		both(probe, pod, web, pod) // by its own address
	}
	served(t, c, node, vip(c, near, 0, 80)) // by its service, which ends at a pod of the node
}

// knockAs has a process of another user send a request and wait for the first byte of the answer. A socket's user is its maker's for access
// to files, which each thread has.
func knockAs(c *demo.Cluster, user int, from string, to netip.AddrPort) error {
	netns, err := c.Netns(from)
	if err != nil {
		return err
	}
	return netns.Do(func() error {
		if err := unix.Setfsuid(user); err != nil {
			return err
		}
		defer unix.Setfsuid(0)
		conn, err := net.DialTimeout("tcp", to.String(), slow)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(slow))
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	})
}
