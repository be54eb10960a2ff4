package decode

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	istio "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// ruleReader reads the rules of one AuthorizationPolicy. What can't be meant is an error here, so that translation has
// nothing to guess.
type ruleReader struct {
	namespace string
}

func (r *ruleReader) rule(path string, o *istio.Rule) (model.Rule, error) {
	var rule model.Rule
	for i, from := range o.GetFrom() {
		source, err := r.source(fmt.Sprintf("%s.from[%d].source", path, i), from.GetSource())
		if err != nil {
			return rule, err
		}
		rule.From = append(rule.From, source)
	}
	for i, to := range o.GetTo() {
		operation, err := r.operation(fmt.Sprintf("%s.to[%d].operation", path, i), to.GetOperation())
		if err != nil {
			return rule, err
		}
		rule.To = append(rule.To, operation)
	}
	for i, when := range o.GetWhen() {
		condition, err := r.condition(fmt.Sprintf("%s.when[%d]", path, i), when)
		if err != nil {
			return rule, err
		}
		rule.When = append(rule.When, condition)
	}
	return rule, nil
}

// field is a list of values by its name in the YAML.
type field struct {
	name   string
	values []string
}

// inUse returns the names of the fields that have values. An empty value is an error: it would match nothing, or all.
func (r *ruleReader) inUse(path string, fields ...field) ([]string, error) {
	var names []string
	for _, f := range fields {
		for i, value := range f.values {
			if value == "" {
				return nil, at(fmt.Sprintf("%s.%s[%d]", path, f.name, i), errors.New("an empty value"))
			}
		}
		if len(f.values) > 0 {
			names = append(names, f.name)
		}
	}
	return names, nil
}

func (r *ruleReader) source(path string, o *istio.Source) (model.Source, error) {
	s := model.Source{
		Principals: o.GetPrincipals(), NotPrincipals: o.GetNotPrincipals(),
		Namespaces: o.GetNamespaces(), NotNamespaces: o.GetNotNamespaces(),
		RequestPrincipals: o.GetRequestPrincipals(), NotRequestPrincipals: o.GetNotRequestPrincipals(),
		TrustDomains: o.GetTrustDomains(), NotTrustDomains: o.GetNotTrustDomains(),
	}
	l4, err := r.inUse(path, field{"principals", s.Principals}, field{"notPrincipals", s.NotPrincipals},
		field{"namespaces", s.Namespaces}, field{"notNamespaces", s.NotNamespaces},
		field{"serviceAccounts", o.GetServiceAccounts()}, field{"notServiceAccounts", o.GetNotServiceAccounts()},
		field{"ipBlocks", o.GetIpBlocks()}, field{"notIpBlocks", o.GetNotIpBlocks()})
	if err != nil {
		return s, err
	}
	s.L7, err = r.inUse(path, field{"requestPrincipals", s.RequestPrincipals}, field{"notRequestPrincipals", s.NotRequestPrincipals},
		field{"remoteIpBlocks", o.GetRemoteIpBlocks()}, field{"notRemoteIpBlocks", o.GetNotRemoteIpBlocks()},
		field{"trustDomains", s.TrustDomains}, field{"notTrustDomains", s.NotTrustDomains})
	if err != nil {
		return s, err
	}
	if len(l4)+len(s.L7) == 0 {
		return s, at(path, errors.New("a source without fields: leave from out to match every source"))
	}
	if s.ServiceAccounts, err = r.accounts(path+".serviceAccounts", o.GetServiceAccounts()); err != nil {
		return s, err
	}
	if s.NotServiceAccounts, err = r.accounts(path+".notServiceAccounts", o.GetNotServiceAccounts()); err != nil {
		return s, err
	}
	return s, r.ranges(path, o, &s)
}

func (r *ruleReader) ranges(path string, o *istio.Source, s *model.Source) error {
	for _, list := range []struct {
		name  string
		texts []string
		into  *[]netip.Prefix
	}{
		{"ipBlocks", o.GetIpBlocks(), &s.IPs}, {"notIpBlocks", o.GetNotIpBlocks(), &s.NotIPs},
		{"remoteIpBlocks", o.GetRemoteIpBlocks(), &s.RemoteIPs}, {"notRemoteIpBlocks", o.GetNotRemoteIpBlocks(), &s.NotRemoteIPs},
	} {
		var err error
		if *list.into, err = prefixes(path+"."+list.name, list.texts); err != nil {
			return err
		}
	}
	return nil
}

// accounts parses "account", meant in the policy's namespace, and "namespace/account".
func (r *ruleReader) accounts(path string, texts []string) ([]model.Name, error) {
	var found []model.Name
	for i, text := range texts {
		name := model.Name{Namespace: r.namespace, Name: text}
		if namespace, account, slash := strings.Cut(text, "/"); slash {
			name = model.Name{Namespace: namespace, Name: account}
		}
		if name.Namespace == "" || name.Name == "" || strings.ContainsAny(name.Name, "/*") || strings.Contains(name.Namespace, "*") {
			return nil, at(fmt.Sprintf("%s[%d]", path, i), fmt.Errorf("want account or namespace/account without wildcards, have %q", text))
		}
		found = append(found, name)
	}
	return found, nil
}

func (r *ruleReader) operation(path string, o *istio.Operation) (model.Operation, error) {
	op := model.Operation{
		Hosts: o.GetHosts(), NotHosts: o.GetNotHosts(), Methods: o.GetMethods(), NotMethods: o.GetNotMethods(),
		Paths: o.GetPaths(), NotPaths: o.GetNotPaths(),
	}
	paths, notPaths := field{"paths", op.Paths}, field{"notPaths", op.NotPaths}
	l7, err := r.inUse(path, field{"hosts", op.Hosts}, field{"notHosts", op.NotHosts},
		field{"methods", op.Methods}, field{"notMethods", op.NotMethods}, paths, notPaths)
	if err != nil {
		return op, err
	}
	op.L7 = l7
	if err := templates(path, paths, notPaths); err != nil {
		return op, err
	}
	if op.Ports, err = portNumbers(path+".ports", o.GetPorts()); err != nil {
		return op, err
	}
	if op.NotPorts, err = portNumbers(path+".notPorts", o.GetNotPorts()); err != nil {
		return op, err
	}
	if len(op.L7)+len(op.Ports)+len(op.NotPorts) == 0 {
		return op, at(path, errors.New("an operation without fields: leave to out to match every operation"))
	}
	return op, nil
}

// templates checks the paths that stand for many: each element is a whole {*} or {**}, or has no braces.
func templates(path string, fields ...field) error {
	for _, f := range fields {
		for i, value := range f.values {
			if strings.ContainsAny(value, "{}") && !isTemplate(value) {
				return at(fmt.Sprintf("%s.%s[%d]", path, f.name, i),
					fmt.Errorf("%q is no template: an element with braces is {*}, or once {**}, and there are no other stars", value))
			}
		}
	}
	return nil
}

func isTemplate(path string) bool {
	anyNumber := 0
	for element := range strings.SplitSeq(path, "/") {
		switch {
		case element == "{**}":
			anyNumber++
		case element != "{*}" && strings.ContainsAny(element, "{}*"):
			return false
		}
	}
	return anyNumber <= 1
}

func (r *ruleReader) condition(path string, o *istio.Condition) (model.When, error) {
	c := model.When{Attribute: o.GetKey()}
	if err := checkKey(c.Attribute); err != nil {
		return c, at(path+".key", err)
	}
	used, err := r.inUse(path, field{"values", o.GetValues()}, field{"notValues", o.GetNotValues()})
	if err != nil {
		return c, err
	}
	if len(used) == 0 {
		return c, at(path, errors.New("neither values nor notValues"))
	}
	switch c.Attribute {
	case model.SourceIP, model.DestinationIP, model.RemoteIP:
		if c.IPs, err = prefixes(path+".values", o.GetValues()); err != nil {
			return c, err
		}
		c.NotIPs, err = prefixes(path+".notValues", o.GetNotValues())
	case model.DestinationPort:
		if c.Ports, err = portNumbers(path+".values", o.GetValues()); err != nil {
			return c, err
		}
		c.NotPorts, err = portNumbers(path+".notValues", o.GetNotValues())
	default:
		c.Values, c.Not = o.GetValues(), o.GetNotValues()
	}
	return c, err
}

// checkKey refuses attributes that no proxy knows: a misspelt one would make a DENY rule that denies nothing.
func checkKey(key string) error {
	switch key {
	case "":
		return errors.New("missing")
	case model.SourceIP, model.SourceNamespace, model.SourcePrincipal, model.DestinationIP, model.DestinationPort,
		model.SourceServiceAccount, model.SourceTrustDomain, model.RemoteIP, model.RequestPrincipal, model.RequestAudiences,
		model.RequestPresenter, model.ConnectionSNI:
		return nil
	}
	if name, ok := strings.CutPrefix(key, "experimental.envoy.filters."); ok && name != "" {
		return nil
	}
	for _, of := range []string{model.RequestHeader, model.RequestClaim} {
		if name, ok := strings.CutPrefix(key, of+"["); ok && strings.Index(name, "]") > 0 && strings.HasSuffix(name, "]") {
			return nil
		}
	}
	return fmt.Errorf("attribute %q is not known", key)
}
