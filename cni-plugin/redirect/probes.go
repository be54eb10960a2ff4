package redirect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The node's part of letting probes pass. In a pod, capture leaves alone what comes from probe4 and probe6; in the node's own namespace,
// connections that root's processes there make to enrolled pods get these for their source, and the answers find their way back by
// connection tracking. Nothing routes the two addresses, and what pods or the wire send isn't a process's of the node: nobody else can have
// them.
//
// The kubelet is known by its user. nftables could tell its cgroup as well, but that is another one after each restart of the kubelet's
// service, by the same name: until that is noticed, every probe of the node would fail.

// Names of Istio's agent, so that either can take over the other's.
const (
	probeChain    = "istio-postrouting"
	probeSet4     = "istio-inpod-probes-v4"
	probeSet6     = "istio-inpod-probes-v6"
	postrtChain   = "ISTIO_POSTRT"
	kubeletUser   = 0 // root, in the user namespace that the node's network belongs to
	prioritySNAT  = nftables.ChainPriority(99)
	mostAddresses = 1 << 14 // of all pods of a node
)

// Set is a named set of addresses of one family.
type Set struct {
	Name  string
	Addrs []netip.Addr // in order
}

// planProbes lists what must be in the node's namespace for the addresses of enrolled pods, which are in order. It is a pure function.
func planProbes(addrs []netip.Addr) []Table {
	if len(addrs) == 0 {
		return nil
	}
	table := Table{Name: natTable}
	var rules []Rule
	for _, f := range []family{ipv4, ipv6} {
		if own := f.these(addrs); len(own) > 0 {
			set := Set{Name: f.probeSet(), Addrs: own}
			table.Sets = append(table.Sets, set)
			rules = append(rules, rule(ofKubelet(), f.destinationIn(set), tcp(), counted(), f.sourceBecomes(f.probe)))
		}
	}
	// Earlier than those of network plugins, which may want to translate as well: the first that does decides.
	table.Chains = []Chain{base(probeChain, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, prioritySNAT, rules...)}
	return []Table{table}
}

func (f family) these(addrs []netip.Addr) (own []netip.Addr) {
	for _, addr := range addrs {
		if addr.BitLen() == f.loopback.BitLen() {
			own = append(own, addr)
		}
	}
	return own
}

func (f family) probeSet() string {
	if f.protocol == ipv6.protocol {
		return probeSet6
	}
	return probeSet4
}

// ofKubelet matches what a process of the kubelet's user sends. What is forwarded has no user.
func ofKubelet() []expr.Any {
	return []expr.Any{load(expr.MetaKeySKUID), compare(equal, native(kubeletUser))}
}

func (f family) destinationIn(set Set) []expr.Any {
	return append(f.only(), f.address(f.destAt), &expr.Lookup{SourceRegister: 1, SetName: set.Name})
}

func (f family) sourceBecomes(addr netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: addr.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.protocol), RegAddrMin: unix.NFT_REG_1},
	}
}

// fromPostrouting is the jump to our chain of iptables, which sees only what processes of the kubelet's user send.
var fromPostrouting = say("-A POSTROUTING -p tcp -m owner --uid-owner %d -j %s", kubeletUser, postrtChain)

// planXProbes is planProbes for iptables: one family's rules, in the words of iptables.
func planXProbes(addrs []netip.Addr, f family) []string {
	own := f.these(addrs)
	if len(own) == 0 {
		return nil
	}
	rules := []string{fromPostrouting}
	for _, addr := range own {
		rules = append(rules, say("-A %s -d %s -j SNAT --to-source %s", postrtChain, f.host(addr.String()), f.probe))
	}
	return rules
}

// parseXProbes finds what is ours in what iptables -S says of our chain and of POSTROUTING.
func parseXProbes(text string) (rules []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \r\n")
		if isProbeJump(line) || strings.HasPrefix(line, "-A "+postrtChain+" ") {
			rules = append(rules, line)
		}
	}
	slices.SortStableFunc(rules, func(a, b string) int { return rankProbe(a) - rankProbe(b) })
	return rules
}

func isProbeJump(rule string) bool {
	return strings.HasPrefix(rule, "-A POSTROUTING ") && strings.HasSuffix(rule, " -j "+postrtChain)
}

func rankProbe(rule string) int {
	if isProbeJump(rule) {
		return 0
	}
	return 1
}

// probeAddrs are the addresses that rules of iptables are for.
func probeAddrs(rules []string) (addrs []netip.Addr) {
	for _, rule := range rules {
		_, rest, _ := strings.Cut(rule, " -d ")
		word, _, _ := strings.Cut(rest, " ")
		if prefix, err := netip.ParsePrefix(word); err == nil && prefix.IsSingleIP() {
			addrs = append(addrs, prefix.Addr())
		}
	}
	return addrs
}

// restoreProbes is the input of iptables-restore --noflush that makes what is planned of what is found. Our jump goes before all others.
func restoreProbes(found, planned []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*nat\n:%s - [0:0]\n", postrtChain) // which makes or empties it
	there := false
	for _, rule := range found {
		switch {
		case !isProbeJump(rule):
		case !there && slices.Contains(planned, rule):
			there = true
		default:
			fmt.Fprintf(&b, "-D%s\n", strings.TrimPrefix(rule, "-A"))
		}
	}
	for _, rule := range planned {
		switch {
		case !isProbeJump(rule):
			fmt.Fprintln(&b, rule)
		case !there:
			fmt.Fprintf(&b, "-I POSTROUTING 1%s\n", strings.TrimPrefix(rule, "-A POSTROUTING"))
		}
	}
	if len(planned) == 0 {
		fmt.Fprintf(&b, "-X %s\n", postrtChain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
