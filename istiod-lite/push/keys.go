package push

import (
	"container/list"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// keys are what a resource can be asked for by, beside its name, and which waypoints need it.
type keys struct {
	aliases  []string // "network/address" for each of its addresses, "network/base/length" for ranges
	services []string // "namespace/hostname" of those that a workload is an endpoint of: who asks for one gets it
	ranges   []addressRange
	node     string // where a workload runs; a proxy of that node gets it unasked
	scope    *scope // nil if no waypoint needs it for itself
}

// addressRange is a range of a service's virtual addresses.
type addressRange struct {
	network string
	prefix  netip.Prefix
}

// keysOf reads a message that is to be published.
func keysOf(message proto.Message) keys {
	address, ok := message.(*workload.Address)
	if !ok {
		return keys{scope: scopeOf(message)}
	}
	if w := address.GetWorkload(); w != nil {
		return workloadKeys(w)
	}
	k := keys{scope: serviceScope(address.GetService())}
	for _, vip := range address.GetService().GetAddresses() {
		ip, ok := netip.AddrFromSlice(vip.GetAddress())
		switch {
		case !ok:
		case vip.Length == nil:
			k.aliases = append(k.aliases, vip.GetNetwork()+"/"+ip.Unmap().String())
		default:
			k.aliases = append(k.aliases, vip.GetNetwork()+"/"+ip.String()+"/"+strconv.Itoa(int(vip.GetLength())))
			if prefix, err := ip.Prefix(int(vip.GetLength())); err == nil {
				k.ranges = append(k.ranges, addressRange{vip.GetNetwork(), prefix})
			}
		}
	}
	return k
}

func workloadKeys(w *workload.Workload) keys {
	k := keys{node: w.GetNode(), scope: boundTo(w.GetWaypoint())}
	for _, raw := range w.GetAddresses() {
		if ip, ok := netip.AddrFromSlice(raw); ok && w.GetNetworkMode() != workload.NetworkMode_HOST_NETWORK {
			k.aliases = append(k.aliases, w.GetNetwork()+"/"+ip.Unmap().String())
		}
	}
	for service := range w.GetServices() {
		k.services = append(k.services, service)
	}
	return k
}

// index finds the entries of a table by their keys.
type index struct {
	byKey   map[string][]*list.Element // aliases and services; each has few entries, but for large services
	ranged  []*list.Element            // of services with ranges, of which there are few
	byLabel map[label][]*list.Element  // of a scope
}

func newIndex() index {
	return index{byKey: make(map[string][]*list.Element), byLabel: make(map[label][]*list.Element)}
}

func (x *index) add(element *list.Element) {
	e := element.Value.(*entry)
	for _, key := range slices.Concat(e.keys.aliases, e.keys.services) {
		x.byKey[key] = append(x.byKey[key], element)
	}
	if len(e.keys.ranges) > 0 {
		x.ranged = append(x.ranged, element)
	}
	for _, l := range e.keys.scope.labelled() {
		x.byLabel[l] = append(x.byLabel[l], element)
	}
}

func (x *index) remove(element *list.Element) {
	is := func(other *list.Element) bool { return other == element }
	e := element.Value.(*entry)
	for _, key := range slices.Concat(e.keys.aliases, e.keys.services) {
		if left := slices.DeleteFunc(x.byKey[key], is); len(left) > 0 {
			x.byKey[key] = left
		} else {
			delete(x.byKey, key)
		}
	}
	if len(e.keys.ranges) > 0 {
		x.ranged = slices.DeleteFunc(x.ranged, is)
	}
	for _, l := range e.keys.scope.labelled() {
		if left := slices.DeleteFunc(x.byLabel[l], is); len(left) > 0 {
			x.byLabel[l] = left
		} else {
			delete(x.byLabel, l)
		}
	}
}

// named returns the live entries that a name means: the resource of that name with its endpoints, or whatever has it as an
// alias, or a range around the address that it is.
func (t *table) named(name string) []*entry {
	var found []*list.Element
	if t.has(name) {
		found = append(found, t.byName[name])
	}
	found = append(found, t.index.byKey[name]...)
	if len(found) == 0 {
		for _, element := range t.index.ranged {
			if element.Value.(*entry).keys.contain(name) {
				found = append(found, element)
			}
		}
	}
	var entries []*entry
	for _, element := range found {
		e := element.Value.(*entry)
		entries = append(entries, e)
		for _, endpoint := range t.index.byKey[e.name] {
			entries = append(entries, endpoint.Value.(*entry))
		}
	}
	return entries
}

// contain tells whether a name is that of an address in one of the ranges.
func (k *keys) contain(name string) bool {
	if len(k.ranges) == 0 {
		return false
	}
	network, text, _ := strings.Cut(name, "/")
	ip, err := netip.ParseAddr(text)
	return err == nil && slices.ContainsFunc(k.ranges, func(r addressRange) bool { return r.network == network && r.prefix.Contains(ip) })
}
