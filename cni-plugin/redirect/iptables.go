package redirect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// xtable is what a table of iptables has of ours, rule by rule in the words of iptables-save: first the jumps to our chains, then
// what is in these. Both variants of iptables use the same words.
type xtable struct {
	name  string
	rules []string
	// packets are how many have come to a rule; of what was read only.
	packets map[string]uint64
}

// The chains of Istio's ambient mode. Sidecars have no prertChain, so their tables aren't taken for ours.
const (
	prertChain     = "ISTIO_PRERT"
	outputChain    = "ISTIO_OUTPUT"
	fromPrerouting = "-A PREROUTING -j " + prertChain
	fromOutput     = "-A OUTPUT -j " + outputChain
)

// planXTables is what Plan is for nftables: one family's tables, in the order in which they are needed. It is a pure function.
func planXTables(wish Wish, f family) []xtable {
	if wish.State == Removed || f == ipv6 && !wish.IPv6 {
		return nil
	}
	jump := fromOutput
	if f == ipv4 {
		jump = fmt.Sprintf("-A OUTPUT -m comment --comment %q -j %s", remember(wish.Remembered), outputChain)
	}
	marks := []string{
		fromPrerouting, jump,
		say("-A %s -m mark --mark %#x/%#x -j CONNMARK --set-xmark %#x/%#x", prertChain, proxyMark, markMask, proxiedMark, markMask),
	}
	restored := say("-A %s -m connmark --mark %#x/%#x -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", outputChain, proxiedMark, markMask)
	nat := []string{fromPrerouting, fromOutput}
	if wish.State == Draining { // one rule that matches nothing, as keeper's
		nat = append(nat, say("-A %s -p tcp -m mark --mark 0x1/0x0 -j REDIRECT --to-ports %d", outputChain, PortOutbound))
		return []xtable{{name: "mangle", rules: append(marks, restored)}, {name: "nat", rules: nat}}
	}
	tables := []xtable{{name: "mangle", rules: append(marks, xRefused(), restored)}}
	nat = slices.Concat(nat, xVirtual(wish.How.interfaces()), xInbound(f, wish.How.Ingress))
	if wish.How.DNS {
		tables = append(tables, ownXTable())
		nat = append(nat, xDNS(f)...)
	}
	return append(tables, xtable{name: "nat", rules: append(nat, xOutbound(f)...)})
}

var say = fmt.Sprintf

// notOurs and opens are conditions of rules that capture: the proxy's own isn't, nor what isn't a connection's first packet.
var (
	notOurs = say("-m mark ! --mark %#x/%#x", proxyMark, markMask)
	opens   = "--tcp-flags FIN,SYN,RST,ACK SYN"
)

func (f family) host(addr string) string { return fmt.Sprintf("%s/%d", addr, f.loopback.BitLen()) }

// counts is a comment that says what a rule counts.
func counts(name string) string { return "-m comment --comment " + name }

// xRefused is countRefused. iptables can't see a sequence number; but other resets say what time it is.
func xRefused() string {
	return say("-A %s -p tcp -m tcp --sport %d:%d ! --tcp-option 8 --tcp-flags FIN,SYN,RST,ACK RST,ACK %s", outputChain, PortOutbound, PortHBONE, counts(Dropped))
}

// xInbound is captureInbound.
func xInbound(f family, bypassed bool) []string {
	then := say("%s -j REDIRECT --to-ports %d", counts(Inbound), PortInbound)
	if bypassed {
		then = counts(Bypassed)
	}
	return []string{
		say("-A %s -p tcp -m mark --mark %#x/%#x -j ACCEPT", prertChain, inwardMark, markMask),
		say("-A %s -s %s -p tcp %s -j ACCEPT", prertChain, f.host(f.probe.String()), counts(Bypassed)),
		say("-A %s ! -d %s -p tcp -m tcp ! --dport %d %s %s %s", prertChain, f.host(f.loopback.String()), PortHBONE, opens, notOurs, then),
		say("-A %s -p tcp -m tcp --dport %d %s %s %s", prertChain, PortHBONE, opens, notOurs, counts(Tunnels)),
	}
}

// xVirtual is captureVirtual.
func xVirtual(interfaces []string) (rules []string) {
	for _, name := range interfaces {
		rules = append(rules, say("-A %s -i %s -p tcp -m tcp %s %s -j REDIRECT --to-ports %d", prertChain, name, opens, counts(Outbound), PortOutbound),
			say("-A %s -i %s -p tcp -j ACCEPT", prertChain, name))
	}
	return rules
}

// xOutbound is captureOutbound.
func xOutbound(f family) []string {
	return []string{
		say("-A %s -d %s -p tcp -j ACCEPT", outputChain, f.host(f.probe.String())),
		say("-A %s -p tcp -m mark --mark %#x/%#x -j ACCEPT", outputChain, proxiedMark, markMask),
		say("-A %s ! -d %s -o lo -j ACCEPT", outputChain, f.host(f.loopback.String())),
		say("-A %s ! -d %s -p tcp -m tcp %s %s %s -j REDIRECT --to-ports %d", outputChain, f.host(f.loopback.String()), opens, notOurs, counts(Outbound), PortOutbound),
	}
}

// xDNS is captureDNS.
func xDNS(f family) []string {
	return []string{
		say("-A %s ! -o lo -p udp -m udp --dport %d %s %s -j REDIRECT --to-ports %d", outputChain, portDNS, notOurs, counts(DNS), PortDNS),
		say("-A %s ! -d %s -p tcp -m tcp --dport %d %s %s %s -j REDIRECT --to-ports %d", outputChain, f.host(f.loopback.String()), portDNS, opens, notOurs, counts(DNS), PortDNS),
	}
}

// ownXTable is ownConnections.
func ownXTable() xtable {
	return xtable{name: "raw", rules: []string{
		fromPrerouting, fromOutput,
		say("-A %s -p udp -m udp --sport %d %s -j CT --zone %d", prertChain, portDNS, notOurs, dnsZone),
		say("-A %s -p udp -m udp --dport %d -m mark --mark %#x/%#x -j CT --zone %d", outputChain, portDNS, proxyMark, markMask, dnsZone),
	}}
}

// xtables adds up one family's counters.
func (c Counts) xtables(tables []xtable) {
	for _, table := range tables {
		for rule, packets := range table.packets {
			_, rest, _ := strings.Cut(rule, counts(""))
			name, _, _ := strings.Cut(rest, " ")
			c.rule(name, packets)
		}
	}
}

// howOf reads the rules that differ.
func howOf(tables []xtable) How {
	how := How{DNS: tableNamed(tables, "raw").name != "", Ingress: true}
	var interfaces []string
	for _, rule := range tableNamed(tables, "nat").rules {
		rest, inbound := strings.CutPrefix(rule, "-A "+prertChain+" ")
		how.Ingress = how.Ingress && !(inbound && strings.HasSuffix(rest, say("--to-ports %d", PortInbound)))
		if named, ok := strings.CutPrefix(rest, "-i "); inbound && ok {
			name, _, _ := strings.Cut(named, " ")
			interfaces = append(interfaces, name)
		}
	}
	how.Virtual = strings.Join(slices.Compact(interfaces), ",")
	return how
}

// isJump tells that a rule leads to one of our chains.
func isJump(rule string) bool {
	return strings.HasSuffix(rule, " "+prertChain) || strings.HasSuffix(rule, " "+outputChain)
}

// parseXTables finds what is ours in the output of iptables-save, which shows what anyone in the pod may have written.
func parseXTables(text string) []xtable {
	var tables []xtable
	var now xtable
	ours := false
	for line := range strings.Lines(text) {
		packets, line := cutCounter(strings.TrimRight(line, " \r\n"))
		switch {
		case strings.HasPrefix(line, "*"):
			now, ours = xtable{name: line[1:], packets: map[string]uint64{}}, false
		case now.packets == nil: // no table has begun
		case strings.HasPrefix(line, ":"+prertChain+" "):
			ours = true
		case strings.HasPrefix(line, "-A ") && (rank(line) >= 0 || isJump(line)):
			now.rules = append(now.rules, line)
			now.packets[line] += packets
		case line == "COMMIT" && ours:
			slices.SortStableFunc(now.rules, func(a, b string) int { return rank(a) - rank(b) })
			tables = append(tables, now)
		}
	}
	slices.SortStableFunc(tables, func(a, b xtable) int { return slices.Index(tableOrder, a.name) - slices.Index(tableOrder, b.name) })
	return tables
}

// cutCounter takes the counter off a rule: [packets:bytes].
func cutCounter(line string) (packets uint64, rule string) {
	counter, rule, ok := strings.Cut(line, "] ")
	if !ok || !strings.HasPrefix(line, "[") {
		return 0, line
	}
	number, _, _ := strings.Cut(counter[1:], ":")
	packets, _ = strconv.ParseUint(number, 10, 64)
	return packets, rule
}

// tableOrder is that in which the tables are needed.
var tableOrder = []string{"mangle", "raw", "nat"}

// rank is where a rule stands in an xtable, by its chain; -1 for chains of others.
func rank(rule string) int {
	for i, chain := range []string{"PREROUTING", "OUTPUT", prertChain, outputChain} {
		if strings.HasPrefix(rule, "-A "+chain+" ") {
			if i < 2 && !isJump(rule) {
				return -1
			}
			return i
		}
	}
	return -1
}

// restore is the input of iptables-restore --noflush that makes what is planned of what is found, table by table: what goes, goes in the
// reverse order. Rules of others stay, and the jumps to ours where they are.
func restore(found, planned []xtable) string {
	var b strings.Builder
	for _, want := range planned {
		writeXTable(&b, tableNamed(found, want.name), want, "")
	}
	for _, old := range slices.Backward(found) {
		if tableNamed(planned, old.name).name == "" {
			writeXTable(&b, old, xtable{name: old.name}, say("-X %s\n-X %s\n", prertChain, outputChain))
		}
	}
	return b.String()
}

func tableNamed(tables []xtable, name string) xtable {
	if i := slices.IndexFunc(tables, func(t xtable) bool { return t.name == name }); i >= 0 {
		return tables[i]
	}
	return xtable{}
}

func writeXTable(b *strings.Builder, found, want xtable, last string) {
	fmt.Fprintf(b, "*%s\n:%s - [0:0]\n:%s - [0:0]\n", want.name, prertChain, outputChain) // which makes or empties them
	missing := slices.Clone(want.rules)
	for _, rule := range found.rules {
		if !isJump(rule) {
			continue
		}
		if at := slices.Index(missing, rule); at >= 0 {
			missing = slices.Delete(missing, at, at+1)
		} else {
			fmt.Fprintf(b, "-D%s\n", strings.TrimPrefix(rule, "-A"))
		}
	}
	for _, rule := range missing {
		fmt.Fprintln(b, rule)
	}
	fmt.Fprintf(b, "%sCOMMIT\n", last)
}

func listXTables(program string, tables []xtable) string {
	var b strings.Builder
	for _, t := range tables {
		fmt.Fprintf(&b, "%s -t %s\n  %s\n", program, t.name, strings.Join(t.rules, "\n  "))
	}
	return b.String()
}

// commentsOf are the comments of the jumps.
func commentsOf(tables []xtable) (comments []string) {
	for _, t := range tables {
		for _, rule := range t.rules {
			if _, rest, ok := strings.Cut(rule, `--comment "`); ok {
				comment, _, _ := strings.Cut(rest, `"`)
				comments = append(comments, comment)
			}
		}
	}
	return comments
}
