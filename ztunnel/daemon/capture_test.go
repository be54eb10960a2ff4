package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
)

// capturePod sends the pod's traffic to ztunnel's ports, by the least rules that Istio's ones boil down to.
func capturePod(t *testing.T, pod *netns.Namespace) {
	t.Helper()
	err := pod.Do(func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if err := localReplies(family); err != nil {
				return err
			}
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "capture"})
		chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules ...[]expr.Any) {
			c := conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority})
			for _, rule := range rules {
				conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: rule})
			}
		}
		chain("mark-in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, rule(mark(0x539, expr.CmpOpEq), setConnMark(0x111)))
		chain("mark-out", nftables.ChainTypeRoute, nftables.ChainHookOutput, nftables.ChainPriorityMangle, rule(connMark(0x111), setMark(0x111)))
		chain("in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
			rule(fromLoopback(expr.CmpOpNeq), tcp(), notPort(15008), mark(0x539, expr.CmpOpNeq), redirect(15006)))
		chain("out", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest,
			rule(mark(0x111, expr.CmpOpEq), accept()),
			rule(toLoopback(), accept()),
			rule(tcp(), mark(0x539, expr.CmpOpNeq), redirect(15001)))
		return conn.Flush()
	})
	if err != nil {
		t.Fatalf("capture %s: %v", pod.Name, err)
	}
}

// localReplies keeps what the application answers to a foreign address that ztunnel used, inside the pod.
func localReplies(family int) error {
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Table, rule.Priority = family, 0x111, 100, 32764
	if err := netlink.RuleAdd(rule); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	all := netlink.NewIPNet(map[int]netip.Addr{unix.AF_INET: netip.IPv4Unspecified(), unix.AF_INET6: netip.IPv6Unspecified()}[family].AsSlice())
	all.Mask = make([]byte, len(all.IP))
	return netlink.RouteAdd(&netlink.Route{Dst: all, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: 100})
}

func rule(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

func mark(value uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)}}
}

func connMark(value uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)}}
}

func setMark(value uint32) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
}

func setConnMark(value uint32) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)}, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}}
}

func tcp() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}}}
}

func notPort(port uint16) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)}}
}

func interfaceName(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	name := make([]byte, 16)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: name}}
}

func fromLoopback(op expr.CmpOp) []expr.Any { return interfaceName(expr.MetaKeyIIFNAME, op) }

func toLoopback() []expr.Any { return interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpEq) }

func redirect(port uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)}, &expr.Redir{RegisterProtoMin: 1}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
