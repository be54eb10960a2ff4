package demo

import (
	"context"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// Reboot makes a node and its pods anew, with the same names and addresses, as after a crash of the machine: their programs are killed,
// their namespaces are gone, and what is on disk or pinned stays. Nothing runs there afterwards. Nobody may use the node meanwhile.
func (c *Cluster) Reboot(ctx context.Context, node string) error {
	places := []string{node}
	for _, pod := range c.spec.Pods {
		if pod.Node == node {
			places = append(places, pod.Name)
		}
	}
	var names []string
	for _, place := range places {
		names = append(names, c.netnsName(place))
	}
	processes := inside(names) // but an agent may be looking elsewhere
	for _, p := range c.Processes() {
		if slices.Contains(append(places, Agent(node), Ztunnel(node)), p.Name) {
			processes = append(processes, p)
		}
	}
	for _, p := range processes {
		if err := p.signal(unix.SIGKILL); err != nil {
			return err
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	err := wire.Links(c.nets[fabric], func(handle *netlink.Handle) error { // the kernel takes namespaces apart later
		return handle.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: uplink(node)}})
	})
	if err != nil {
		return fmt.Errorf("disconnect node %s: %w", node, err)
	}
	for _, place := range places {
		c.nets[place].Close()
		if err := wire.Remove(c.netnsPath(place)); err != nil {
			return err
		}
		anew, err := wire.Make(c.netnsPath(place))
		if err != nil {
			return err
		}
		c.netsLock.Lock()
		c.nets[place] = anew
		c.netsLock.Unlock()
	}
	return c.connectNode(node)
}

// StartPods starts the programs of a node's pods.
func (c *Cluster) StartPods(node string) error {
	for _, pod := range c.spec.Pods {
		if pod.Node == node && len(pod.Command) > 0 {
			if err := c.startPod(pod); err != nil {
				return err
			}
		}
	}
	return nil
}
