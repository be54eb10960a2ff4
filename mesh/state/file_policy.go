package state

import (
	"errors"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tulle-mesh/tulle/mesh/api/security"
)

type localPolicy struct {
	Name      string           `yaml:"name"`
	Namespace string           `yaml:"namespace"`
	Scope     string           `yaml:"scope"`
	Action    string           `yaml:"action"`
	Rules     [][][]localMatch `yaml:"rules"`
	DryRun    bool             `yaml:"dryRun"`
}

type localMatch struct {
	Namespaces          []localString         `yaml:"namespaces"`
	NotNamespaces       []localString         `yaml:"notNamespaces"`
	Principals          []localString         `yaml:"principals"`
	NotPrincipals       []localString         `yaml:"notPrincipals"`
	SourceIPs           []string              `yaml:"sourceIps"`
	NotSourceIPs        []string              `yaml:"notSourceIps"`
	DestinationIPs      []string              `yaml:"destinationIps"`
	NotDestinationIPs   []string              `yaml:"notDestinationIps"`
	DestinationPorts    []uint16              `yaml:"destinationPorts"`
	NotDestinationPorts []uint16              `yaml:"notDestinationPorts"`
	ServiceAccounts     []localServiceAccount `yaml:"serviceAccounts"`
	NotServiceAccounts  []localServiceAccount `yaml:"notServiceAccounts"`
}

// localString has exactly one of its fields.
type localString struct {
	Exact    *string   `yaml:"Exact"`
	Prefix   *string   `yaml:"Prefix"`
	Suffix   *string   `yaml:"Suffix"`
	Presence *[]string `yaml:"Presence"`
}

type localServiceAccount struct {
	Namespace      string `yaml:"namespace"`
	ServiceAccount string `yaml:"serviceAccount"`
}

func (l *localPolicy) authorization() (_ []*security.Authorization, err error) {
	if l.Action == "" || l.Scope == "" {
		return nil, errors.New("a policy needs an action and a scope")
	}
	p := &security.Authorization{Name: l.Name, Namespace: l.Namespace, DryRun: l.DryRun}
	p.Action = enum[security.Action](l.Action, security.Action_value, &err)
	p.Scope = enum[security.Scope](l.Scope, security.Scope_value, &err)
	for _, rules := range l.Rules {
		group := new(security.Group)
		for _, matches := range rules {
			rule := new(security.Rules)
			for i := range matches {
				rule.Matches = append(rule.Matches, matches[i].message(&err))
			}
			group.Rules = append(group.Rules, rule)
		}
		p.Groups = append(p.Groups, group)
	}
	return []*security.Authorization{p}, err
}

func (l *localMatch) message(failed *error) *security.Match {
	port := func(p uint16) (uint32, error) { return uint32(p), nil }
	return &security.Match{
		Namespaces:          each(l.Namespaces, localString.message, failed),
		NotNamespaces:       each(l.NotNamespaces, localString.message, failed),
		Principals:          each(l.Principals, localString.message, failed),
		NotPrincipals:       each(l.NotPrincipals, localString.message, failed),
		SourceIps:           each(l.SourceIPs, localRange, failed),
		NotSourceIps:        each(l.NotSourceIPs, localRange, failed),
		DestinationIps:      each(l.DestinationIPs, localRange, failed),
		NotDestinationIps:   each(l.NotDestinationIPs, localRange, failed),
		DestinationPorts:    each(l.DestinationPorts, port, failed),
		NotDestinationPorts: each(l.NotDestinationPorts, port, failed),
		ServiceAccounts:     each(l.ServiceAccounts, localServiceAccount.message, failed),
		NotServiceAccounts:  each(l.NotServiceAccounts, localServiceAccount.message, failed),
	}
}

func (l localServiceAccount) message() (*security.ServiceAccountMatch, error) {
	return &security.ServiceAccountMatch{Namespace: l.Namespace, ServiceAccount: l.ServiceAccount}, nil
}

func (l localString) message() (m *security.StringMatch, err error) {
	fields := 0
	m = new(security.StringMatch)
	if l.Exact != nil {
		m.MatchType, fields = &security.StringMatch_Exact{Exact: *l.Exact}, fields+1
	}
	if l.Prefix != nil {
		m.MatchType, fields = &security.StringMatch_Prefix{Prefix: *l.Prefix}, fields+1
	}
	if l.Suffix != nil {
		m.MatchType, fields = &security.StringMatch_Suffix{Suffix: *l.Suffix}, fields+1
	}
	if l.Presence != nil {
		m.MatchType, fields = &security.StringMatch_Presence{Presence: new(emptypb.Empty)}, fields+1
	}
	if fields != 1 {
		err = errors.New("a string match needs one of Exact, Prefix, Suffix and Presence")
	}
	return m, err
}

// localRange reads an address or a range of addresses.
func localRange(text string) (*security.Address, error) {
	if !strings.Contains(text, "/") {
		ip, err := netip.ParseAddr(text)
		return &security.Address{Address: ip.AsSlice(), Length: uint32(ip.BitLen())}, err
	}
	prefix, err := netip.ParsePrefix(text)
	return &security.Address{Address: prefix.Addr().AsSlice(), Length: uint32(max(prefix.Bits(), 0))}, err
}
