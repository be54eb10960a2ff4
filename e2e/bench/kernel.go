package main

import (
	"fmt"
	"os"
	"syscall"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// Port ranges of connections that are dialled: a wide one that leaves out all ports that are listened on, so that rows
// with many new connections measure programs and not the kernel's limits, and the kernel's own.
const (
	wideRange     = "16384 65535"
	standardRange = "32768 60999"
)

// widen gives a pod a wide range of ports, and their reuse after a second, as the node agent sets it too.
func widen(netns *wire.Netns) error {
	if err := setKernel(netns, "ipv4/tcp_tw_reuse", "1"); err != nil {
		return err
	}
	return setKernel(netns, "ipv4/ip_local_port_range", wideRange)
}

// openFiles is how many descriptors the programs that are started from now on may have: as many as they need for 5,000
// connections, or fewer where we are not allowed to give them so many.
func openFiles() (uint64, error) {
	wanted := syscall.Rlimit{Cur: plentyFiles, Max: plentyFiles}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &wanted) == nil {
		return plentyFiles, nil
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	return limit.Cur, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

const (
	plentyFiles   = 1 << 17
	filesOfSplice = 6 // for a connection: two sockets and a pipe each way
)

func setKernel(netns *wire.Netns, name, value string) error {
	err := netns.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("set kernel parameter %s: %w", name, err)
	}
	return nil
}
