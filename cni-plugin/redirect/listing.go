package redirect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
)

// String lists the rules so that a person can review them and two listings can be compared. Counters show no values.
func (r Rules) String() string {
	var b strings.Builder
	for _, table := range r.Tables {
		fmt.Fprintf(&b, "table inet %s\n", table.Name)
		for _, set := range table.Sets {
			fmt.Fprintf(&b, "  set %s: %v\n", set.Name, set.Addrs)
		}
		for _, chain := range table.Chains {
			writeChain(&b, chain)
		}
	}
	for _, route := range r.Routes {
		command := "ip"
		if route.IPv6 {
			command = "ip -6"
		}
		if route.Policy {
			fmt.Fprintf(&b, "%s rule pref %d fwmark %#x/%#x lookup %d\n", command, rulePriority, proxiedMark, markMask, routeTable)
		}
		if route.Default {
			fmt.Fprintf(&b, "%s route local default dev lo table %d\n", command, routeTable)
		}
	}
	for _, s := range r.Sysctls {
		fmt.Fprintf(&b, "sysctl %s = %s\n", s.Name, s.Value)
	}
	return b.String()
}

func writeChain(b *strings.Builder, chain Chain) {
	fmt.Fprintf(b, "  chain %s", chain.Name)
	if hook := chain.Hook; hook != nil {
		fmt.Fprintf(b, ": type %s hook %s priority %d", hook.Type, hookName(hook.Hook), hook.Priority)
	}
	b.WriteString("\n")
	for _, rule := range chain.Rules {
		fmt.Fprintf(b, "    %s\n", rule)
	}
}

// String lists one rule in the manner of nft.
func (r Rule) String() string {
	var words phrase
	for _, e := range r.Exprs {
		words.add(e)
	}
	if r.Comment != "" {
		words.say("comment %q", r.Comment)
	}
	return strings.Join(words.said, " ")
}

// phrase turns expressions into words. It follows one register, which is all that our rules use.
type phrase struct {
	said     []string
	register string                   // what register 1 holds, in words
	show     func(data []byte) string // how to write a value that is compared with it
	value    []byte                   // what was put into register 1, if it was
	protocol string                   // that the rule is for: tcp or udp
}

func (p *phrase) say(format string, args ...any) {
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

func (p *phrase) hold(name string, show func([]byte) string) { p.register, p.show = name, show }

func (p *phrase) add(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		p.meta(e)
	case *expr.Ct:
		p.conntrack(e)
	case *expr.Payload:
		name, show := p.payloadName(e)
		p.hold(name, show)
	case *expr.Bitwise:
		p.bitwise(e)
	case *expr.Cmp:
		p.compare(e)
	case *expr.Immediate:
		p.hold(showValue(e.Data), showHex)
		p.value = e.Data
	case *expr.Redir:
		p.say("redirect to :%s", p.register)
	case *expr.Lookup:
		p.lookup(e)
	case *expr.NAT:
		p.nat(e)
	case *expr.Verdict:
		p.verdict(e)
	case *expr.Counter:
		p.say("counter")
	default:
		p.say("%T", e) // not ours: the listing must differ
	}
}

func (p *phrase) meta(e *expr.Meta) {
	names := map[expr.MetaKey]string{
		expr.MetaKeyMARK: "meta mark", expr.MetaKeyNFPROTO: "meta nfproto", expr.MetaKeyL4PROTO: "meta l4proto", expr.MetaKeySKUID: "meta skuid",
		expr.MetaKeyOIFNAME: "oifname", expr.MetaKeyIIFNAME: "iifname",
	}
	name, ok := names[e.Key]
	if !ok {
		name = fmt.Sprintf("meta key %d", e.Key)
	}
	switch {
	case e.SourceRegister:
		p.say("%s set %s", name, p.register)
	case e.Key == expr.MetaKeyMARK || e.Key == expr.MetaKeySKUID:
		p.hold(name, showNative)
	case e.Key == expr.MetaKeyNFPROTO:
		p.hold(name, showName(map[byte]string{ipv4.protocol: "ipv4", ipv6.protocol: "ipv6"}))
	case e.Key == expr.MetaKeyL4PROTO:
		p.hold(name, showName(map[byte]string{6: "tcp", 17: "udp"}))
	case e.Key == expr.MetaKeyOIFNAME || e.Key == expr.MetaKeyIIFNAME:
		p.hold(name, func(data []byte) string { return fmt.Sprintf("%q", bytes.TrimRight(data, "\x00")) })
	default:
		p.hold(name, showHex)
	}
}

func (p *phrase) conntrack(e *expr.Ct) {
	name := "ct mark"
	if e.Key != expr.CtKeyMARK {
		name = fmt.Sprintf("ct key %d", e.Key)
	}
	stores := e.SourceRegister || e.Register == 0 // the library reads a store back without its register
	if e.Key == expr.CtKeyZONE && stores && len(p.value) == 2 {
		p.say("ct zone set %d", binary.NativeEndian.Uint16(p.value))
		return
	}
	if stores {
		p.say("%s set %s", name, p.register)
		return
	}
	p.hold(name, showNative)
}

func (p *phrase) bitwise(e *expr.Bitwise) {
	show := showNative
	if len(e.Mask) != 4 {
		show = showHex
	}
	p.register += " & " + show(e.Mask)
	if len(bytes.Trim(e.Xor, "\x00")) > 0 {
		p.register += " | " + show(e.Xor) // the mask has cleared these bits
	}
}

func (p *phrase) compare(e *expr.Cmp) {
	show := p.show
	if show == nil {
		show = showHex
	}
	switch e.Op {
	case expr.CmpOpEq:
		p.say("%s %s", p.register, show(e.Data))
		if p.register == "meta l4proto" {
			p.protocol = show(e.Data)
		}
	case expr.CmpOpNeq:
		p.say("%s != %s", p.register, show(e.Data))
	case expr.CmpOpGte:
		p.say("%s >= %s", p.register, show(e.Data))
	case expr.CmpOpLte:
		p.say("%s <= %s", p.register, show(e.Data))
	default:
		p.say("%s compare %d %s", p.register, e.Op, show(e.Data))
	}
}

func (p *phrase) lookup(e *expr.Lookup) {
	if e.Invert || e.IsDestRegSet {
		p.say("%T %+v", e, *e) // not ours
		return
	}
	p.say("%s @%s", p.register, e.SetName)
}

func (p *phrase) nat(e *expr.NAT) {
	if e.Type != expr.NATTypeSourceNAT || e.RegProtoMin != 0 || e.Random || e.FullyRandom || e.Persistent || e.Prefix {
		p.say("%T %+v", e, *e) // not ours
		return
	}
	p.say("snat to %s", p.register)
}

func (p *phrase) verdict(e *expr.Verdict) {
	switch e.Kind {
	case expr.VerdictAccept:
		p.say("accept")
	case expr.VerdictJump:
		p.say("jump %s", e.Chain)
	default:
		p.say("verdict %d %s", e.Kind, e.Chain)
	}
}

func (p *phrase) payloadName(e *expr.Payload) (string, func([]byte) string) {
	type field struct {
		base        expr.PayloadBase
		offset, len uint32
	}
	switch (field{e.Base, e.Offset, e.Len}) {
	case field{expr.PayloadBaseNetworkHeader, ipv4.sourceAt, 4}:
		return "ip saddr", showAddr
	case field{expr.PayloadBaseNetworkHeader, ipv4.destAt, 4}:
		return "ip daddr", showAddr
	case field{expr.PayloadBaseNetworkHeader, ipv6.sourceAt, 16}:
		return "ip6 saddr", showAddr
	case field{expr.PayloadBaseNetworkHeader, ipv6.destAt, 16}:
		return "ip6 daddr", showAddr
	case field{expr.PayloadBaseTransportHeader, 0, 2}:
		return p.protocol + " sport", showPort
	case field{expr.PayloadBaseTransportHeader, 2, 2}:
		return p.protocol + " dport", showPort
	case field{expr.PayloadBaseTransportHeader, 4, 4}:
		return "tcp sequence", showHex
	case field{expr.PayloadBaseTransportHeader, 13, 1}:
		return "tcp flags", showHex
	}
	return fmt.Sprintf("payload %d@%d+%d", e.Base, e.Offset, e.Len), showHex
}

func showName(names map[byte]string) func([]byte) string {
	return func(data []byte) string {
		if len(data) == 1 && names[data[0]] != "" {
			return names[data[0]]
		}
		return showHex(data)
	}
}

func showHex(data []byte) string { return fmt.Sprintf("%#x", data) }

func showNative(data []byte) string {
	if len(data) != 4 {
		return showHex(data)
	}
	return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(data))
}

// showValue writes a port, or an address.
func showValue(data []byte) string {
	if len(data) == 2 {
		return showPort(data)
	}
	return showAddr(data)
}

func showPort(data []byte) string {
	if len(data) != 2 {
		return showHex(data)
	}
	return fmt.Sprint(binary.BigEndian.Uint16(data))
}

func showAddr(data []byte) string {
	addr, ok := netip.AddrFromSlice(data)
	if !ok {
		return showHex(data)
	}
	return addr.String()
}
