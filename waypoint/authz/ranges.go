package authz

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/waypoint/index"
)

// ranges are of addresses. Asking them costs as much as they have different lengths.
type ranges struct {
	prefixes map[netip.Prefix]bool
	lengths  []int
}

func (r *ranges) add(p netip.Prefix) {
	if r.prefixes == nil {
		r.prefixes = map[netip.Prefix]bool{}
	}
	r.prefixes[p.Masked()] = true
	if !slices.Contains(r.lengths, p.Bits()) {
		r.lengths = append(r.lengths, p.Bits())
	}
}

func (r *ranges) empty() bool { return len(r.prefixes) == 0 }

// contain is false for no address.
func (r *ranges) contain(a netip.Addr) bool {
	for _, bits := range r.lengths {
		if p, err := a.Prefix(bits); err == nil && r.prefixes[p] {
			return true
		}
	}
	return false
}

func (r *ranges) keys(kind index.Kind) (keys []index.Key) {
	for p := range r.prefixes {
		keys = append(keys, index.RangeKey(kind, p))
	}
	return keys
}
