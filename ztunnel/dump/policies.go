package dump

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/mesh/state"
)

type policy struct {
	Name      string      `json:"name"`
	Namespace string      `json:"namespace"`
	Scope     string      `json:"scope"`
	Action    string      `json:"action"`
	DryRun    bool        `json:"dryRun,omitempty"`
	Rules     [][][]match `json:"rules"`
	Invalid   string      `json:"invalid,omitempty"`
}

type match struct {
	Namespaces          []text    `json:"namespaces,omitempty"`
	NotNamespaces       []text    `json:"notNamespaces,omitempty"`
	Principals          []text    `json:"principals,omitempty"`
	NotPrincipals       []text    `json:"notPrincipals,omitempty"`
	SourceIPs           []string  `json:"sourceIps,omitempty"`
	NotSourceIPs        []string  `json:"notSourceIps,omitempty"`
	DestinationIPs      []string  `json:"destinationIps,omitempty"`
	NotDestinationIPs   []string  `json:"notDestinationIps,omitempty"`
	DestinationPorts    []uint16  `json:"destinationPorts,omitempty"`
	NotDestinationPorts []uint16  `json:"notDestinationPorts,omitempty"`
	ServiceAccounts     []account `json:"serviceAccounts,omitempty"`
	NotServiceAccounts  []account `json:"notServiceAccounts,omitempty"`
}

// text has one key: Exact, Prefix, Suffix or Presence.
type text map[string]any

type account struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

func newPolicy(p *state.Policy) policy {
	d := policy{
		Name: p.Name, Namespace: p.Namespace, DryRun: p.DryRun, Rules: [][][]match{},
		Scope:  [...]string{"Global", "Namespace", "WorkloadSelector", ""}[p.Scope&3],
		Action: choose(p.Action == state.Deny, "Deny", "Allow"),
	}
	if p.Invalid != nil {
		d.Invalid = p.Invalid.Error()
	}
	for _, group := range p.Groups {
		rules := [][]match{}
		for _, rule := range group {
			matches := []match{}
			for i := range rule {
				matches = append(matches, newMatch(&rule[i]))
			}
			rules = append(rules, matches)
		}
		d.Rules = append(d.Rules, rules)
	}
	return d
}

func newMatch(m *state.Match) match {
	return match{
		Namespaces: newTexts(m.Namespaces), NotNamespaces: newTexts(m.NotNamespaces),
		Principals: newTexts(m.Principals), NotPrincipals: newTexts(m.NotPrincipals),
		SourceIPs: texts[netip.Prefix](m.SourceIPs), NotSourceIPs: texts[netip.Prefix](m.NotSourceIPs),
		DestinationIPs: texts[netip.Prefix](m.DestinationIPs), NotDestinationIPs: texts[netip.Prefix](m.NotDestinationIPs),
		DestinationPorts: m.DestinationPorts, NotDestinationPorts: m.NotDestinationPorts,
		ServiceAccounts: newAccounts(m.ServiceAccounts), NotServiceAccounts: newAccounts(m.NotServiceAccounts),
	}
}

func newTexts(list []state.StringMatch) []text {
	var out []text
	for _, m := range list {
		switch m.Kind {
		case state.MatchPresence:
			out = append(out, text{"Presence": []string{}})
		case state.MatchPrefix:
			out = append(out, text{"Prefix": m.Value})
		case state.MatchSuffix:
			out = append(out, text{"Suffix": m.Value})
		default:
			out = append(out, text{"Exact": m.Value})
		}
	}
	return out
}

func newAccounts(list []state.ServiceAccount) []account {
	var out []account
	for _, a := range list {
		out = append(out, account{a.Namespace, a.Name})
	}
	return out
}
