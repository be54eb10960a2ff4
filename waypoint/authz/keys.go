package authz

import (
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/index"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// keyed are the attributes by whose values rules are found.
var keyed = []attribute{
	path, host, method, attribute(l7.Condition_SOURCE_PRINCIPAL), attribute(l7.Condition_SOURCE_SERVICE_ACCOUNT), attribute(l7.Condition_SOURCE_NAMESPACE),
	attribute(l7.Condition_SOURCE_IP), attribute(l7.Condition_REMOTE_IP),
	attribute(l7.Condition_REQUEST_PRINCIPAL), attribute(l7.Condition_REQUEST_CLAIM), attribute(l7.Condition_REQUEST_HEADER),
}

// keys are those of which a request has one of each set if the rule matches.
func (r *rule) keys() (e index.Entry) {
	add := func(alternatives [][]condition) {
		for _, attribute := range keyed {
			if keys := keysOf(alternatives, attribute); len(keys) > 0 {
				e = append(e, keys)
			}
		}
	}
	add(r.from)
	add(r.to)
	for i := range r.when {
		add([][]condition{r.when[i : i+1]})
	}
	return e
}

// keysOf are the keys of an attribute that all alternatives have; none if one hasn't.
func keysOf(alternatives [][]condition, a attribute) (keys []index.Key) {
	for _, all := range alternatives {
		found := false
		for i := range all {
			if more := all[i].keys(); all[i].attribute == a && len(more) > 0 {
				keys, found = append(keys, more...), true
				break
			}
		}
		if !found {
			return nil
		}
	}
	return keys
}

// keys are those of which a request has one if the condition fits; none if there are no such.
func (c *condition) keys() (keys []index.Key) {
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_SOURCE_IP:
		return c.anyRange.keys(index.Source)
	case l7.Condition_REMOTE_IP:
		return c.anyRange.keys(index.Remote)
	}
	for _, all := range []*texts{&c.any, c.any.decoded} {
		if all == nil {
			continue
		}
		for value := range all.exact {
			key, ok := c.key(value)
			if !ok {
				return nil
			}
			keys = append(keys, key)
		}
		for i := range all.rest {
			key, ok := all.rest[i].pathKey()
			if !ok || c.attribute != path {
				return nil
			}
			keys = append(keys, key)
		}
	}
	return keys
}

// key is that of a value.
func (c *condition) key(value string) (index.Key, bool) {
	key := index.Key{Value: value}
	switch l7.Condition_Attribute(c.attribute) {
	case l7.Condition_Attribute(path):
		key.Kind = index.Path
	case l7.Condition_Attribute(method):
		key.Kind = index.Method
	case l7.Condition_Attribute(host):
		key.Kind = index.Host
		key.Value, _ = target.SplitHost(value)
	case l7.Condition_SOURCE_PRINCIPAL:
		key.Kind = index.Principal
	case l7.Condition_SOURCE_NAMESPACE:
		key.Kind = index.Namespace
	case l7.Condition_SOURCE_SERVICE_ACCOUNT:
		key.Kind = index.ServiceAccount
	case l7.Condition_REQUEST_PRINCIPAL:
		key.Kind = index.RequestPrincipal
	case l7.Condition_REQUEST_CLAIM:
		key.Kind, key.Name = index.Claim, claimName(c.claim)
	case l7.Condition_REQUEST_HEADER:
		in, _ := exchange.InFields(c.header)
		key.Kind, key.Name = index.Header, c.header
		return key, in
	default:
		return index.Key{}, false
	}
	return key, true
}

// claimName is the name of a claim among keys.
func claimName(path []string) string { return strings.Join(path, "\x00") }

// claimPaths are the ways to the claims that are among the keys of rules, by their names.
func claimPaths(list []clause) map[string][]string {
	paths := map[string][]string{}
	for i := range list {
		for _, w := range list[i].rule.when {
			if len(w.claim) > 0 {
				paths[claimName(w.claim)] = w.claim
			}
		}
	}
	return paths
}
