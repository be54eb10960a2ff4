package redirect

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rule is a sequence of nftables expressions, with a comment that nft shows.
type Rule struct {
	Exprs   []expr.Any
	Comment string
}

func rule(parts ...[]expr.Any) Rule { return Rule{Exprs: slices.Concat(parts...)} }

func (r Rule) commented(comment string) Rule {
	r.Comment = comment
	return r
}

const (
	equal   = expr.CmpOpEq
	differs = expr.CmpOpNeq
	atLeast = expr.CmpOpGte
	atMost  = expr.CmpOpLte
)

func compare(op expr.CmpOp, data []byte) expr.Any { return &expr.Cmp{Op: op, Register: 1, Data: data} }

func load(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }

// masked keeps the mask's bits of register 1 and flips those of xor. Marks live in the machine's byte order.
func masked(mask, xor uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func (f family) only() []expr.Any {
	return []expr.Any{load(expr.MetaKeyNFPROTO), compare(equal, []byte{f.protocol})}
}

func (f family) source(op expr.CmpOp, addr netip.Addr) []expr.Any {
	return append(f.only(), f.address(f.sourceAt), compare(op, addr.AsSlice()))
}

func (f family) destination(op expr.CmpOp, addr netip.Addr) []expr.Any {
	return append(f.only(), f.address(f.destAt), compare(op, addr.AsSlice()))
}

func (f family) address(offset uint32) expr.Any {
	length := uint32(f.loopback.BitLen() / 8)
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// redirects is the port that a rule redirects to, 0 for others.
func (r Rule) redirects() uint16 {
	for i, e := range r.Exprs {
		if _, ok := e.(*expr.Redir); ok && i > 0 {
			if port, ok := r.Exprs[i-1].(*expr.Immediate); ok && len(port.Data) == 2 {
				return binary.BigEndian.Uint16(port.Data)
			}
		}
	}
	return 0
}

// packets is how many have come to a rule's counter.
func (r Rule) packets() uint64 {
	for _, e := range r.Exprs {
		if counter, ok := e.(*expr.Counter); ok {
			return counter.Packets
		}
	}
	return 0
}

// inInterface is the interface that a rule begins with, "" for others.
func (r Rule) inInterface() string {
	if len(r.Exprs) < 2 {
		return ""
	}
	meta, ok := r.Exprs[0].(*expr.Meta)
	name, also := r.Exprs[1].(*expr.Cmp)
	if !ok || !also || meta.Key != expr.MetaKeyIIFNAME {
		return ""
	}
	return string(bytes.TrimRight(name.Data, "\x00"))
}

func tcp() []expr.Any { return protocol(unix.IPPROTO_TCP) }
func udp() []expr.Any { return protocol(unix.IPPROTO_UDP) }

func protocol(number byte) []expr.Any {
	return []expr.Any{load(expr.MetaKeyL4PROTO), compare(equal, []byte{number})}
}

func sourcePort(op expr.CmpOp, port uint16) []expr.Any      { return portAt(0, op, port) }
func destinationPort(op expr.CmpOp, port uint16) []expr.Any { return portAt(2, op, port) }

func portAt(offset uint32, op expr.CmpOp, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		compare(op, binary.BigEndian.AppendUint16(nil, port)),
	}
}

// TCP flags in the header's 14th byte.
const (
	flagFIN, flagSYN, flagRST, flagACK = 1, 2, 4, 16
	openingMask                        = flagFIN | flagSYN | flagRST | flagACK
)

// opening matches a bare SYN: only a connection's first packet. Without it, packets of connections older than the rules
// would be translated too, and reset.
func opening() []expr.Any { return flags(flagSYN) }

// refusing matches the reset that answers a bare SYN: there is no sequence number yet.
func refusing() []expr.Any {
	return append(flags(flagRST|flagACK),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 4, Len: 4}, compare(equal, make([]byte, 4)))
}

func flags(set byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{openingMask}, Xor: []byte{0}},
		compare(equal, []byte{set}),
	}
}

func metaMark(op expr.CmpOp, mark uint32) []expr.Any {
	return []expr.Any{load(expr.MetaKeyMARK), masked(markMask, 0), compare(op, native(mark))}
}

func connectionMark(op expr.CmpOp, mark uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, masked(markMask, 0), compare(op, native(mark))}
}

// setConnectionMark replaces the low bits of the connection's mark; the others may belong to another program.
func setConnectionMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		masked(^uint32(markMask), mark),
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

func restoreConnectionMark() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

func outInterface(op expr.CmpOp, name string) []expr.Any {
	return []expr.Any{load(expr.MetaKeyOIFNAME), compare(op, padded(name))}
}

func inInterface(name string) []expr.Any {
	return []expr.Any{load(expr.MetaKeyIIFNAME), compare(equal, padded(name))}
}

func padded(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

// setZone lets the packet be tracked among those of the zone only. It must happen before connection tracking.
func setZone(zone uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint16(nil, zone)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true},
	}
}

func counted() []expr.Any { return []expr.Any{&expr.Counter{}} }
func accept() []expr.Any  { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func jump(chain string) Rule {
	return rule(counted(), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}})
}

func redirectTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

// hookName is needed because the library has no names for hooks; their numbers are those of the inet family.
func hookName(hook nftables.ChainHook) string {
	names := map[nftables.ChainHook]string{
		*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookInput: "input", *nftables.ChainHookForward: "forward",
		*nftables.ChainHookOutput: "output", *nftables.ChainHookPostrouting: "postrouting",
	}
	return names[hook]
}
