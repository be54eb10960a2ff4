package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// Require tells in one line what this machine lacks for a simulated cluster, and what helps. It leaves nothing behind.
func Require(spec Spec) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root to make network namespaces: sudo tulle demo")
	}
	needed := []string{spec.Programs.Tulle, spec.Programs.Istiod, spec.Programs.Agent, spec.Programs.Ztunnel}
	if spec.Bare {
		needed = needed[:1]
	}
	for _, path := range needed {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("no program %s; build it with: make build", path)
		}
	}
	var lack error
	if err := wire.Elsewhere(func() error { lack = probe(); return nil }); err != nil {
		return fmt.Errorf("can't make namespaces (%w); in a container, run it with --privileged", err)
	}
	return lack
}

// probe tries each kernel feature in the calling thread's fresh network namespace.
func probe() error {
	if err := tryLinks(); err != nil {
		return err
	}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/lo"); errors.Is(err, fs.ErrNotExist) {
		return errors.New("the kernel has no IPv6; start it without ipv6.disable=1")
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("can't set kernel parameters (%w); in a container, run it with --privileged", err)
	}
	if err := tryNAT(); err != nil {
		return fmt.Errorf("the kernel can't do NAT with nftables (%w); load it with: modprobe -a nf_tables nft_chain_nat nft_numgen nft_masq", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("can't capture packets (%w); load the module with: modprobe af_packet", err)
	}
	return unix.Close(fd)
}

func tryLinks() error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer handle.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "try0"
	if err := handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "try1"}); err != nil {
		return fmt.Errorf("can't make virtual links (%w); load the module with: modprobe veth", err)
	}
	attrs.Name = "try2"
	if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("can't make a bridge (%w); load the module with: modprobe bridge", err)
	}
	return nil
}

// tryNAT installs one rule of each kind that the cluster uses.
func tryNAT() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	for _, f := range families() {
		if err := f.install(conn, nil, nil); err != nil {
			return err
		}
	}
	table := conn.AddTable(&nftables.Table{Name: "try", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Redir{},
	}})
	return conn.Flush()
}

// Beside finds the mesh's programs in the folder of the running one, and in the PATH what isn't there.
func Beside(executable string) Programs {
	find := func(name string) string {
		path := filepath.Join(filepath.Dir(executable), name)
		if _, err := os.Stat(path); err != nil {
			if found, err := exec.LookPath(name); err == nil {
				return found
			}
		}
		return path
	}
	return Programs{Tulle: executable, Istiod: find("istiod-lite"), Agent: find("tulle-cni-agent"), Ztunnel: find("ztunnel")}
}
