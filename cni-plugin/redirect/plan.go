package redirect

import (
	"net/netip"

	"github.com/google/nftables"
)

// Rules is everything that Tulle has in a pod's namespace. String lists it in the manner of the nft and ip commands.
type Rules struct {
	Tables []Table
	Routes []Route
	// Sysctls are those that are touched.
	Sysctls []Sysctl
}

// Table is one nftables table of family inet.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
}

// Chain is a base chain when it has a Hook.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Hook says where in the kernel's path a base chain sits.
type Hook struct {
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
}

// Route is one family's half of the return path: the policy rule that sends packets of proxied connections to
// routeTable, and the default route there, which delivers them locally.
type Route struct {
	IPv6            bool
	Policy, Default bool // which halves exist; Plan always wants both
}

// Wish is what Plan needs to know.
type Wish struct {
	State State // anything but Damaged
	How   How   // in state Capture
	IPv6  bool  // the namespace can do IPv6
	// Remembered are the values before Tulle of the sysctls that the kernel has, kept in a rule's comment so that they survive
	// the agent.
	Remembered []Sysctl
}

const (
	natTable      = "istio-ambient-nat"
	mangleTable   = "istio-ambient-mangle"
	rawTable      = "istio-ambient-raw" // for DNS only
	inboundChain  = "istio-prerouting"
	outboundChain = "istio-output"
)

// Plan lists what must be in a namespace. It is a pure function.
func Plan(wish Wish) Rules {
	if wish.State == Removed {
		return Rules{}
	}
	families := []family{ipv4}
	routes := []Route{{Policy: true, Default: true}}
	if wish.IPv6 {
		families = append(families, ipv6)
		routes = append(routes, Route{IPv6: true, Policy: true, Default: true})
	}
	var in, out, resets []Rule
	var apart []Table
	if wish.State == Draining {
		out = []Rule{keeper()}
	} else {
		resets = []Rule{countRefused()}
		in = append(captureVirtual(wish.How.interfaces()), captureInbound(families, wish.How.Ingress)...)
		if wish.How.DNS {
			out = captureDNS(families)
			apart = []Table{ownConnections()}
		}
		out = append(out, captureOutbound(families)...)
	}
	return Rules{
		Tables: append([]Table{
			{Name: mangleTable, Chains: []Chain{
				base("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityMangle, jump(inboundChain)),
				base("output", nftables.ChainTypeRoute, nftables.ChainHookOutput, priorityMangle, jump(outboundChain).commented(remember(wish.Remembered))),
				{Name: inboundChain, Rules: []Rule{markConnection()}},
				{Name: outboundChain, Rules: append(resets, restoreMark())},
			}},
			{Name: natTable, Chains: []Chain{
				base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, priorityNAT, jump(inboundChain)),
				base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, priorityNAT, jump(outboundChain)),
				{Name: inboundChain, Rules: in},
				{Name: outboundChain, Rules: out},
			}},
		}, apart...),
		Routes:  routes,
		Sysctls: wantedSysctls(wish.Remembered),
	}
}

const (
	priorityRaw    nftables.ChainPriority = -300 // before connection tracking
	priorityMangle nftables.ChainPriority = -150
	priorityNAT    nftables.ChainPriority = -100
)

func base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority, rules ...Rule) Chain {
	return Chain{Name: name, Hook: &Hook{Type: kind, Hook: *hook, Priority: priority}, Rules: rules}
}

// markConnection remembers that the proxy dialled the app, perhaps from a source address that isn't its own.
func markConnection() Rule {
	return rule(metaMark(equal, proxyMark), counted(), setConnectionMark(proxiedMark))
}

// restoreMark marks the app's answers on such connections, so that the route table leads them back to the proxy.
func restoreMark() Rule {
	return rule(connectionMark(equal, proxiedMark), counted(), restoreConnectionMark())
}

// countRefused counts who finds no proxy: the kernel resets what comes to a closed port, and only such a reset has no sequence number. The
// ports from the first to the last of the proxy's are nobody else's.
func countRefused() Rule {
	return rule(tcp(), refusing(), sourcePort(atLeast, PortOutbound), sourcePort(atMost, PortHBONE), counted()).commented(Dropped)
}

// captureInbound hands new plain-text arrivals to the proxy, except the node's probes, what comes from the proxy, and what the ebpf
// engine has turned around before the pod came to this one. Those that bypass it, and tunnels, are only counted: rules of others may be
// behind ours.
func captureInbound(families []family, bypassed bool) []Rule {
	then, counts := redirectTo(PortInbound), Inbound
	if bypassed {
		then, counts = nil, Bypassed
	}
	rules := []Rule{rule(metaMark(equal, inwardMark), tcp(), counted(), accept())}
	for _, f := range families {
		rules = append(rules, rule(f.source(equal, f.probe), tcp(), counted(), accept()).commented(Bypassed))
	}
	for _, f := range families {
		rules = append(rules, rule(f.destination(differs, f.loopback), tcp(), destinationPort(differs, PortHBONE),
			metaMark(differs, proxyMark), opening(), counted(), then).commented(counts))
	}
	return append(rules, rule(tcp(), destinationPort(equal, PortHBONE), metaMark(differs, proxyMark), opening(), counted()).commented(Tunnels))
}

// captureVirtual hands what comes from virtual machines and containers in the pod to the proxy, as if the app itself had opened it.
func captureVirtual(interfaces []string) []Rule {
	var rules []Rule
	for _, name := range interfaces {
		rules = append(rules, rule(inInterface(name), tcp(), opening(), counted(), redirectTo(PortOutbound)).commented(Outbound),
			rule(inInterface(name), tcp(), counted(), accept()))
	}
	return rules
}

// captureOutbound hands the app's new connections to the proxy, except answers to probes, answers on proxied
// connections, and calls to the pod's own addresses.
func captureOutbound(families []family) []Rule {
	var rules []Rule
	for _, f := range families {
		rules = append(rules, rule(f.destination(equal, f.probe), tcp(), counted(), accept()))
	}
	rules = append(rules, rule(tcp(), metaMark(equal, proxiedMark), counted(), accept()))
	for _, f := range families {
		rules = append(rules, rule(outInterface(equal, "lo"), f.destination(differs, f.loopback), counted(), accept()))
	}
	for _, f := range families {
		rules = append(rules, rule(f.destination(differs, f.loopback), tcp(),
			metaMark(differs, proxyMark), opening(), counted(), redirectTo(PortOutbound)).commented(Outbound))
	}
	return rules
}

const (
	portDNS = 53
	dnsZone = 1 // of connection tracking
)

// captureDNS hands the app's DNS questions to the proxy, except those to a name server in the pod itself.
func captureDNS(families []family) []Rule {
	var rules []Rule
	for _, f := range families {
		rules = append(rules, rule(outInterface(differs, "lo"), f.only(), udp(), destinationPort(equal, portDNS),
			metaMark(differs, proxyMark), counted(), redirectTo(PortDNS)).commented(DNS))
	}
	for _, f := range families {
		rules = append(rules, rule(f.destination(differs, f.loopback), tcp(), destinationPort(equal, portDNS),
			metaMark(differs, proxyMark), opening(), counted(), redirectTo(PortDNS)).commented(DNS))
	}
	return rules
}

// ownConnections tracks the proxy's own DNS questions and their answers apart from the app's. Else a question from a
// port that the app had just used would be taken for another one of the app's, and come back to the proxy.
func ownConnections() Table {
	return Table{Name: rawTable, Chains: []Chain{
		base("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityRaw, jump(inboundChain)),
		base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, priorityRaw, jump(outboundChain)),
		{Name: inboundChain, Rules: []Rule{rule(metaMark(differs, proxyMark), udp(), sourcePort(equal, portDNS), counted(), setZone(dnsZone))}},
		{Name: outboundChain, Rules: []Rule{rule(metaMark(equal, proxyMark), udp(), destinationPort(equal, portDNS), counted(), setZone(dnsZone))}},
	}}
}

// keeper matches nothing: no packet is TCP and UDP. Its redirect keeps connection tracking and translation switched on
// in the namespace, without which the kernel would reset every captured connection.
func keeper() Rule {
	return rule(tcp(), udp(), redirectTo(PortOutbound))
}

// family is what differs between the rules for IPv4 and IPv6.
type family struct {
	protocol         byte // NFPROTO_IPV4 or NFPROTO_IPV6
	sourceAt, destAt uint32
	probe, loopback  netip.Addr
}

var (
	ipv4 = family{protocol: 2, sourceAt: 12, destAt: 16, probe: probe4, loopback: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	ipv6 = family{protocol: 10, sourceAt: 8, destAt: 24, probe: probe6, loopback: netip.IPv6Loopback()}
)
