package state

import (
	"net/netip"
	"slices"
)

// prefixLengths are the lengths of a network's ranges, so that a look-up tries only those. The longest come first.
type prefixLengths struct{ v4, v6 []prefixLength }

type prefixLength struct {
	bits   int
	ranges int // how many distinct ranges have it
}

func (l prefixLengths) of(ip netip.Addr) []prefixLength {
	if ip.Is4() {
		return l.v4
	}
	return l.v6
}

// count returns the lengths after by ranges (1 or -1) of the prefix's length came.
func (l prefixLengths) count(prefix netip.Prefix, by int) prefixLengths {
	if prefix.Addr().Is4() {
		l.v4 = count(l.v4, prefix.Bits(), by)
	} else {
		l.v6 = count(l.v6, prefix.Bits(), by)
	}
	return l
}

func count(lengths []prefixLength, bits, by int) []prefixLength {
	lengths = slices.Clone(lengths)
	i, found := slices.BinarySearchFunc(lengths, bits, func(l prefixLength, bits int) int { return bits - l.bits })
	if !found {
		return slices.Insert(lengths, i, prefixLength{bits, by})
	}
	if lengths[i].ranges += by; lengths[i].ranges == 0 {
		return slices.Delete(lengths, i, i+1)
	}
	return lengths
}
