package daemon

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/state"
)

type policyDump struct {
	Name      string          `json:"name"`
	Namespace string          `json:"namespace"`
	Scope     string          `json:"scope"`
	Action    string          `json:"action"`
	DryRun    bool            `json:"dryRun,omitempty"`
	Rules     [][][]matchDump `json:"rules"`
	Invalid   string          `json:"invalid,omitempty"`
}

type matchDump struct {
	Namespaces          []stringDump  `json:"namespaces,omitempty"`
	NotNamespaces       []stringDump  `json:"notNamespaces,omitempty"`
	Principals          []stringDump  `json:"principals,omitempty"`
	NotPrincipals       []stringDump  `json:"notPrincipals,omitempty"`
	SourceIPs           []string      `json:"sourceIps,omitempty"`
	NotSourceIPs        []string      `json:"notSourceIps,omitempty"`
	DestinationIPs      []string      `json:"destinationIps,omitempty"`
	NotDestinationIPs   []string      `json:"notDestinationIps,omitempty"`
	DestinationPorts    []uint16      `json:"destinationPorts,omitempty"`
	NotDestinationPorts []uint16      `json:"notDestinationPorts,omitempty"`
	ServiceAccounts     []accountDump `json:"serviceAccounts,omitempty"`
	NotServiceAccounts  []accountDump `json:"notServiceAccounts,omitempty"`
}

// stringDump has one key: Exact, Prefix, Suffix or Presence.
type stringDump map[string]any

type accountDump struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

func dumpPolicy(p *state.Policy) policyDump {
	d := policyDump{
		Name: p.Name, Namespace: p.Namespace, DryRun: p.DryRun, Rules: [][][]matchDump{},
		Scope:  [...]string{"Global", "Namespace", "WorkloadSelector", ""}[p.Scope&3],
		Action: choose(p.Action == state.Deny, "Deny", "Allow"),
	}
	if p.Invalid != nil {
		d.Invalid = p.Invalid.Error()
	}
	for _, group := range p.Groups {
		rules := [][]matchDump{}
		for _, rule := range group {
			matches := []matchDump{}
			for i := range rule {
				matches = append(matches, dumpMatch(&rule[i]))
			}
			rules = append(rules, matches)
		}
		d.Rules = append(d.Rules, rules)
	}
	return d
}

func dumpMatch(m *state.Match) matchDump {
	return matchDump{
		Namespaces: dumpStrings(m.Namespaces), NotNamespaces: dumpStrings(m.NotNamespaces),
		Principals: dumpStrings(m.Principals), NotPrincipals: dumpStrings(m.NotPrincipals),
		SourceIPs: texts[netip.Prefix](m.SourceIPs), NotSourceIPs: texts[netip.Prefix](m.NotSourceIPs),
		DestinationIPs: texts[netip.Prefix](m.DestinationIPs), NotDestinationIPs: texts[netip.Prefix](m.NotDestinationIPs),
		DestinationPorts: m.DestinationPorts, NotDestinationPorts: m.NotDestinationPorts,
		ServiceAccounts: dumpAccounts(m.ServiceAccounts), NotServiceAccounts: dumpAccounts(m.NotServiceAccounts),
	}
}

func dumpStrings(list []state.StringMatch) []stringDump {
	var out []stringDump
	for _, m := range list {
		switch m.Kind {
		case state.MatchPresence:
			out = append(out, stringDump{"Presence": []string{}})
		case state.MatchPrefix:
			out = append(out, stringDump{"Prefix": m.Value})
		case state.MatchSuffix:
			out = append(out, stringDump{"Suffix": m.Value})
		default:
			out = append(out, stringDump{"Exact": m.Value})
		}
	}
	return out
}

func dumpAccounts(list []state.ServiceAccount) []accountDump {
	var out []accountDump
	for _, a := range list {
		out = append(out, accountDump{a.Namespace, a.Name})
	}
	return out
}
