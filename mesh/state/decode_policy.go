package state

import (
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tulle-mesh/tulle/mesh/api/security"
)

// decodePolicy never fails: what it can't understand makes the policy Invalid. An unknown action is taken as Deny and an
// unknown scope as the policy's namespace. What can't be understood may be what makes a dry run something else, so that
// such a policy is enforced.
func decodePolicy(in *security.Authorization) *Policy {
	p := &Policy{
		Namespace: intern(in.GetNamespace()),
		Name:      in.GetName(),
		Scope:     ScopeNamespace,
		Action:    Deny,
		Invalid:   unknownField(in),
	}
	switch in.GetAction() {
	case security.Action_ALLOW:
		p.Action = Allow
	case security.Action_DENY:
	default:
		p.fail(fmt.Errorf("action %d is unknown", in.GetAction()))
	}
	if isKnown(in.GetScope(), security.Scope_name) {
		p.Scope = Scope(in.GetScope())
	} else {
		p.fail(fmt.Errorf("scope %d is unknown", in.GetScope()))
	}
	if len(in.GetExtensions()) > 0 {
		p.fail(fmt.Errorf("extension %q is unknown", in.GetExtensions()[0].GetName()))
	}
	p.decodeGroups(in)
	p.fullName = p.Key().String()
	p.DryRun = in.GetDryRun() && p.Invalid == nil
	return p
}

// fail keeps the first thing that is wrong.
func (p *Policy) fail(err error) {
	if p.Invalid == nil {
		p.Invalid = err
	}
}

func (p *Policy) decodeGroups(in *security.Authorization) {
	for g, group := range in.GetGroups() {
		rules := make([][]Match, 0, len(group.GetRules()))
		for r, rule := range group.GetRules() {
			matches := make([]Match, 0, len(rule.GetMatches()))
			for m, match := range rule.GetMatches() {
				decoded, err := decodeMatch(match)
				if err != nil {
					p.fail(fmt.Errorf("group %d, rule %d, match %d: %w", g, r, m, err))
				}
				matches = append(matches, decoded)
			}
			rules = append(rules, matches)
		}
		p.Groups = append(p.Groups, rules)
	}
}

func decodeMatch(in *security.Match) (Match, error) {
	var failed error
	if len(in.GetExtensions()) > 0 {
		failed = fmt.Errorf("extension %q is unknown", in.GetExtensions()[0].GetName())
	}
	return Match{
		Namespaces:          each(in.GetNamespaces(), decodeStringMatch, &failed),
		NotNamespaces:       each(in.GetNotNamespaces(), decodeStringMatch, &failed),
		Principals:          each(in.GetPrincipals(), decodeStringMatch, &failed),
		NotPrincipals:       each(in.GetNotPrincipals(), decodeStringMatch, &failed),
		SourceIPs:           each(in.GetSourceIps(), decodeRange, &failed),
		NotSourceIPs:        each(in.GetNotSourceIps(), decodeRange, &failed),
		DestinationIPs:      each(in.GetDestinationIps(), decodeRange, &failed),
		NotDestinationIPs:   each(in.GetNotDestinationIps(), decodeRange, &failed),
		DestinationPorts:    each(in.GetDestinationPorts(), decodePort, &failed),
		NotDestinationPorts: each(in.GetNotDestinationPorts(), decodePort, &failed),
		ServiceAccounts:     each(in.GetServiceAccounts(), decodeServiceAccount, &failed),
		NotServiceAccounts:  each(in.GetNotServiceAccounts(), decodeServiceAccount, &failed),
	}, failed
}

// each decodes a list. It puts the first error into failed.
func each[In, Out any](list []In, decode func(In) (Out, error), failed *error) []Out {
	var decoded []Out
	for _, in := range list {
		out, err := decode(in)
		if err != nil && *failed == nil {
			*failed = err
		}
		decoded = append(decoded, out)
	}
	return decoded
}

func decodeStringMatch(in *security.StringMatch) (StringMatch, error) {
	switch in.GetMatchType().(type) {
	case *security.StringMatch_Exact:
		return StringMatch{MatchExact, in.GetExact()}, nil
	case *security.StringMatch_Prefix:
		return StringMatch{MatchPrefix, in.GetPrefix()}, nil
	case *security.StringMatch_Suffix:
		return StringMatch{MatchSuffix, in.GetSuffix()}, nil
	case *security.StringMatch_Presence:
		return StringMatch{Kind: MatchPresence}, nil
	default:
		return StringMatch{}, errors.New("a string is tested in an unknown way")
	}
}

func decodeRange(in *security.Address) (netip.Prefix, error) {
	return decodePrefix(in.GetAddress(), in.GetLength())
}

func decodeServiceAccount(in *security.ServiceAccountMatch) (ServiceAccount, error) {
	if in.GetNamespace() == "" || in.GetServiceAccount() == "" {
		return ServiceAccount{}, errors.New("a service account lacks its namespace or name")
	}
	return ServiceAccount{in.GetNamespace(), in.GetServiceAccount()}, nil
}

// unknownField returns an error if a message, or one inside it, has a field which this program does not know.
func unknownField(m proto.Message) error { return findUnknown(m.ProtoReflect()) }

func findUnknown(m protoreflect.Message) (err error) {
	if raw := m.GetUnknown(); len(raw) > 0 {
		return fmt.Errorf("%s has an unknown field", m.Descriptor().Name())
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				if err == nil {
					err = findUnknown(value.List().Get(i).Message())
				}
			}
		default:
			err = findUnknown(value.Message())
		}
		return err == nil
	})
	return err
}
