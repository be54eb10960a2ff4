package main

import (
	"fmt"
	"os"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// Port ranges of connections that are dialled: a wide one that leaves out all ports that are listened on, so that rows
// with many new connections measure programs and not the kernel's limits, and the kernel's own.
const (
	wideRange     = "16384 65535"
	standardRange = "32768 60999"
)

// widen gives a pod a wide range of ports, and their reuse after a second, as the node agent sets it too.
func widen(netns *demo.Netns) error {
	if err := setKernel(netns, "ipv4/tcp_tw_reuse", "1"); err != nil {
		return err
	}
	return setKernel(netns, "ipv4/ip_local_port_range", wideRange)
}

func setKernel(netns *demo.Netns, name, value string) error {
	err := netns.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("set kernel parameter %s: %w", name, err)
	}
	return nil
}
