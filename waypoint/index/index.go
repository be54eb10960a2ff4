// Package index finds the first of many entries that fits a request. It looks only at entries of which the request has a key, each filed under its
// rarest, so what a request costs doesn't grow with what others are asked for.
package index

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// Kind is what a key is about.
type Kind uint8

// The kinds of keys.
const (
	Path             Kind = iota // all of it
	Prefix                       // the elements that a path begins with, without a slash at the end; not empty
	Method                       //
	Host                         // in lower case, without the port
	Header                       // its value, of Name
	Param                        // its value, of Name
	Principal                    // of the peer
	Namespace                    // of the peer
	ServiceAccount               // "namespace/name" of the peer
	Source                       // a range of the peer's addresses, see RangeKey
	Remote                       // a range of the client's
	RequestPrincipal             // "issuer/subject" of the token
	Claim                        // its value, of Name
	kinds
)

// Key is a property with a value.
type Key struct {
	Kind        Kind
	Name, Value string
}

// PrefixKey returns the key of paths that begin with a text, as far as it has whole elements; ok is false if it has none.
func PrefixKey(text string) (k Key, ok bool) {
	end := strings.LastIndexByte(text, '/')
	if end <= 0 {
		return Key{}, false
	}
	return Key{Kind: Prefix, Value: text[:end]}, true
}

// RangeKey returns the key of all addresses of a range.
func RangeKey(kind Kind, p netip.Prefix) Key {
	value := rangeValue(p)
	return Key{Kind: kind, Value: string(value[:])}
}

func rangeValue(p netip.Prefix) (value [18]byte) {
	address := p.Masked().Addr().As16()
	copy(value[:], address[:])
	value[16] = byte(p.Bits())
	if p.Addr().Is4() {
		value[17] = 4
	}
	return value
}

// Entry is what is known of an entry: several sets of keys, of each of which a request has at least one if the entry fits it.
type Entry [][]Key

// Index holds the positions of entries, in order. It doesn't change.
type Index struct {
	rest   []int32 // those without keys
	byKey  map[Key][]int32
	has    [kinds]bool
	names  map[Key]struct{} // the headers and parameters that are keys, without their values
	levels int              // elements of the longest prefix
	bits   [kinds][]int     // the lengths of ranges of a kind
}

// New files entries, in order.
func New(entries []Entry) *Index {
	x := &Index{byKey: map[Key][]int32{}, names: map[Key]struct{}{}}
	frequency := map[Key]int{}
	for _, e := range entries {
		for _, keys := range e {
			for _, k := range keys {
				frequency[k]++
			}
		}
	}
	for i, e := range entries {
		x.file(int32(i), rarest(e, frequency))
	}
	return x
}

// rarest returns the set of keys that the fewest entries have; nil if there is none.
func rarest(e Entry, frequency map[Key]int) (best []Key) {
	fewest := math.MaxInt
	for _, keys := range e {
		sum := 0
		for _, k := range keys {
			sum += frequency[k]
		}
		if sum < fewest {
			best, fewest = keys, sum
		}
	}
	return best
}

func (x *Index) file(entry int32, keys []Key) {
	if keys == nil {
		x.rest = append(x.rest, entry)
	}
	for _, k := range keys {
		list := x.byKey[k]
		if len(list) > 0 && list[len(list)-1] == entry { // the key is there twice
			continue
		}
		x.byKey[k] = append(list, entry)
		x.has[k.Kind] = true
		switch k.Kind {
		case Header, Param:
			x.names[Key{Kind: k.Kind, Name: k.Name}] = struct{}{}
		case Prefix:
			x.levels = max(x.levels, strings.Count(k.Value, "/"))
		case Source, Remote:
			if bits := int(k.Value[16]); !slices.Contains(x.bits[k.Kind], bits) {
				x.bits[k.Kind] = append(x.bits[k.Kind], bits)
			}
		}
	}
}

// Search looks for the first entry that fits, by all keys of a request, one after the other.
type Search struct {
	index *Index
	fits  func(entry int32) bool
	first int32
}

// Begin begins a search with those entries that may fit anything. fits is called until it has said yes and no entry before it is left.
func (x *Index) Begin(fits func(entry int32) bool) Search {
	s := Search{index: x, fits: fits, first: math.MaxInt32}
	s.look(x.rest)
	return s
}

// First returns the entry that was found; ok is false if there is none.
func (s *Search) First() (entry int32, ok bool) { return s.first, s.first < math.MaxInt32 }

func (s *Search) look(list []int32) {
	for _, entry := range list {
		if entry >= s.first {
			return
		}
		if s.fits(entry) {
			s.first = entry
			return
		}
	}
}

// Value looks under a kind that has no names, and a value.
func (s *Search) Value(kind Kind, value string) {
	if s.index.has[kind] {
		s.look(s.index.byKey[Key{Kind: kind, Value: value}])
	}
}

// Named looks under a kind that has names, a name, and a value.
func (s *Search) Named(kind Kind, name, value string) {
	s.look(s.index.byKey[Key{Kind: kind, Name: name, Value: value}])
}

// Address looks under all ranges that an address is in.
func (s *Search) Address(kind Kind, a netip.Addr) {
	for _, bits := range s.index.bits[kind] {
		if p, err := a.Prefix(bits); err == nil && p.IsValid() {
			value := rangeValue(p)
			s.look(s.index.byKey[Key{Kind: kind, Value: string(value[:])}])
		}
	}
}

// Paths looks under a path and all that it begins with.
func (s *Search) Paths(path string) {
	s.Value(Path, path)
	for i, level := 1, 0; i <= len(path) && level < s.index.levels; i++ {
		if i == len(path) || path[i] == '/' {
			s.look(s.index.byKey[Key{Kind: Prefix, Value: path[:i]}])
			level++
		}
	}
}

// Headers looks under headers.
func (s *Search) Headers(fields []exchange.Field) {
	if !s.index.has[Header] {
		return
	}
	for i := range fields {
		name := fields[i].Name
		if _, ok := s.index.names[Key{Kind: Header, Name: name}]; !ok {
			continue
		}
		if _, before := exchange.Get(fields[:i], name); before { // all lines are one value, which costs as much as they are long
			continue
		}
		value, _ := exchange.Joined(fields, name)
		s.Named(Header, name, value)
	}
}

// Params looks under the parameters of a query.
func (s *Search) Params(query string) {
	if !s.index.has[Param] {
		return
	}
	for query != "" {
		var name, value string
		name, value, query = target.NextParam(query)
		if _, ok := s.index.names[Key{Kind: Param, Name: name}]; ok {
			s.Named(Param, name, value)
		}
	}
}
