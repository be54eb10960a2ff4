package demo

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// Each node sends a service's virtual address to one of its pods as kube-proxy does: one map per address family from
// (address, port, a random slot) to (pod, port). Twelve slots spread evenly over 1, 2, 3, 4, 6 or 12 pods. A pod that
// is sent to itself is masqueraded, else it would see its own address answer.
const (
	vipTable = "tulle-services"
	slots    = 12
)

// target is one entry of the map.
type target struct {
	vip, pod netip.AddrPort
	slot     uint32
}

// targets is the map for the given services and pods of a Spec: pure, so that tests can show it as text.
func targets(spec Spec) []target {
	var out []target
	addrs := spec.podAddrs()
	for index, service := range spec.Services {
		var pods [][]netip.Addr
		for i, pod := range spec.Pods {
			if service.selects(pod) {
				pods = append(pods, addrs[i])
			}
		}
		if len(pods) == 0 {
			continue
		}
		for _, port := range sortedKeys(service.Ports) {
			for family, vip := range vips(index) {
				for slot := range slots {
					pod := netip.AddrPortFrom(pods[slot%len(pods)][family], service.Ports[port])
					out = append(out, target{netip.AddrPortFrom(vip, port), pod, uint32(slot)})
				}
			}
		}
	}
	return out
}

func (t target) String() string { return fmt.Sprintf("%s slot %d -> %s", t.vip, t.slot, t.pod) }

// family is what differs between the rules for IPv4 and IPv6.
type family struct {
	table           nftables.TableFamily
	key, value      nftables.SetDatatype
	saddr, daddr    uint32
	size, registers uint32 // of an address: bytes, and 4-byte registers
	nat             uint32
	has             func(netip.Addr) bool
}

func families() []family {
	return []family{
		{nftables.TableFamilyIPv4, nftables.TypeIPAddr, nftables.TypeIPAddr, 12, 16, 4, 1, unix.NFPROTO_IPV4, netip.Addr.Is4},
		{nftables.TableFamilyIPv6, nftables.TypeIP6Addr, nftables.TypeIP6Addr, 8, 24, 16, 4, unix.NFPROTO_IPV6, netip.Addr.Is6},
	}
}

// serveVIPs installs the map and its rules in a node's namespace, in one transaction.
func serveVIPs(node *wire.Netns, entries []target, pods []netip.Addr) error {
	file, err := os.Open(node.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(file.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, f := range families() {
		if err := f.install(conn, entries, pods); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("install the service map on %s: %w", node.Path, err)
	}
	return nil
}

func (f family) install(conn *nftables.Conn, entries []target, pods []netip.Addr) error {
	table := conn.AddTable(&nftables.Table{Name: vipTable, Family: f.table})
	services := &nftables.Set{
		Table: table, Name: "services", IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(f.key, nftables.TypeInetService, nftables.TypeInteger),
		DataType: nftables.MustConcatSetType(f.value, nftables.TypeInetService),
	}
	var elements []nftables.SetElement
	for _, entry := range entries {
		if f.has(entry.vip.Addr()) {
			key := slices.Concat(addrPort(entry.vip), binary.NativeEndian.AppendUint32(nil, entry.slot))
			elements = append(elements, nftables.SetElement{Key: key, Val: addrPort(entry.pod)})
		}
	}
	if err := conn.AddSet(services, elements); err != nil {
		return fmt.Errorf("make the service map: %w", err)
	}
	hairpins := &nftables.Set{
		Table: table, Name: "hairpins", Concatenation: true,
		KeyType: nftables.MustConcatSetType(f.key, f.key),
	}
	elements = nil
	for _, pod := range pods {
		if f.has(pod) {
			elements = append(elements, nftables.SetElement{Key: slices.Concat(pod.AsSlice(), pod.AsSlice())})
		}
	}
	if err := conn.AddSet(hairpins, elements); err != nil {
		return fmt.Errorf("make the set of pods: %w", err)
	}
	// The node's own processes may call services too, hence output.
	for name, hook := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
		chain := conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: f.dnat(services)})
	}
	chain := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: f.masquerade(hairpins)})
	return nil
}

// dnat is: tcp, dnat to (destination address, destination port, random slot) map @services.
func (f family) dnat(services *nftables.Set) []expr.Any {
	const first = unix.NFT_REG32_00
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.size},
		&expr.Payload{DestRegister: first + f.registers, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Numgen{Register: first + f.registers + 1, Modulus: slots, Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: first, DestRegister: first, IsDestRegSet: true, SetName: services.Name, SetID: services.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: f.nat, RegAddrMin: first, RegProtoMin: first + f.registers, Specified: true},
	}
}

// masquerade is: (source address, destination address) @hairpins masquerade.
func (f family) masquerade(hairpins *nftables.Set) []expr.Any {
	const first = unix.NFT_REG32_00
	return []expr.Any{
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: f.saddr, Len: f.size},
		&expr.Payload{DestRegister: first + f.registers, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.size},
		&expr.Lookup{SourceRegister: first, SetName: hairpins.Name, SetID: hairpins.ID},
		&expr.Masq{},
	}
}

// addrPort is an address and a port as the map has them: each padded to whole registers.
func addrPort(a netip.AddrPort) []byte {
	return slices.Concat(a.Addr().AsSlice(), binaryutil.BigEndian.PutUint16(a.Port()), []byte{0, 0})
}

// describe is the map as text, one line per entry.
func describe(entries []target) string {
	var b strings.Builder
	for _, entry := range entries {
		fmt.Fprintln(&b, entry)
	}
	return b.String()
}
