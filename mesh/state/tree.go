package state

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
)

const (
	treeBits  = 5 // each level of a tree tells 32 slots apart
	treeMask  = 1<<treeBits - 1
	treeDepth = (64 + treeBits - 1) / treeBits // deeper, the hashes are equal to the last bit
)

// tree is an immutable map: a change copies only the few nodes on the way to one key and shares all others with the
// tree before, so that it costs about the same at any size. It is a hash array mapped trie.
type tree[K comparable, V any] struct {
	hash func(K) uint64
	root *node[K, V]
	size int
}

// batch marks the nodes made since it began. They are not published yet, so the batch may change them in place. It has
// a field since all pointers to empty values may be equal.
type batch struct{ _ byte }

// node has one slot per bit of used, in the order of the bits. Below treeDepth it is a list of slots instead.
type node[K comparable, V any] struct {
	made  *batch
	used  uint32
	slots []slot[K, V]
}

// slot is a sub-tree, or a key and its value if child is nil. It is small since most of the cost of a change is copying
// slots; an entry itself never changes.
type slot[K comparable, V any] struct {
	child *node[K, V]
	entry *entry[K, V]
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newTree[K comparable, V any](seed maphash.Seed) tree[K, V] {
	return tree[K, V]{hash: func(key K) uint64 { return maphash.Comparable(seed, key) }}
}

// get returns the value of a key, or the zero value.
func (t *tree[K, V]) get(key K) V {
	value, _ := t.find(key)
	return value
}

func (t *tree[K, V]) find(key K) (value V, found bool) {
	if t.root == nil {
		return value, false
	}
	hash := t.hash(key)
	for n, depth := t.root, 0; ; depth++ {
		if depth == treeDepth {
			if i := n.indexOf(key); i >= 0 {
				return n.slots[i].entry.value, true
			}
			return value, false
		}
		bit := uint32(1) << (hash & treeMask)
		if n.used&bit == 0 {
			return value, false
		}
		s := &n.slots[bits.OnesCount32(n.used&(bit-1))]
		if s.child == nil {
			if s.entry.key == key {
				return s.entry.value, true
			}
			return value, false
		}
		n, hash = s.child, hash>>treeBits
	}
}

// all yields every key and value in no particular order.
func (t *tree[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t.root != nil {
			t.root.walk(yield)
		}
	}
}

func (n *node[K, V]) walk(yield func(K, V) bool) bool {
	for i := range n.slots {
		if s := &n.slots[i]; s.child != nil {
			if !s.child.walk(yield) {
				return false
			}
		} else if !yield(s.entry.key, s.entry.value) {
			return false
		}
	}
	return true
}

// set puts a value under a key, for the trees of the batch only.
func (t *tree[K, V]) set(b *batch, key K, value V) {
	if t.root == nil {
		t.root = &node[K, V]{made: b}
	}
	var added bool
	t.root, added = t.root.set(b, t, place[K, V]{&entry[K, V]{key, value}, t.hash(key), 0})
	if added {
		t.size++
	}
}

// place is an entry on the way down: hash begins with the bits of the node at that depth.
type place[K comparable, V any] struct {
	entry *entry[K, V]
	hash  uint64
	depth int
}

func (n *node[K, V]) set(b *batch, t *tree[K, V], p place[K, V]) (changed *node[K, V], added bool) {
	n = n.own(b)
	leaf := slot[K, V]{entry: p.entry}
	if p.depth == treeDepth {
		if i := n.indexOf(p.entry.key); i >= 0 {
			n.slots[i] = leaf
			return n, false
		}
		n.slots = append(n.slots, leaf)
		return n, true
	}
	bit := uint32(1) << (p.hash & treeMask)
	i := bits.OnesCount32(n.used & (bit - 1))
	if n.used&bit == 0 {
		n.used |= bit
		n.slots = slices.Insert(n.slots, i, leaf)
		return n, true
	}
	s := &n.slots[i]
	below := place[K, V]{p.entry, p.hash >> treeBits, p.depth + 1}
	switch {
	case s.child != nil:
		s.child, added = s.child.set(b, t, below)
		return n, added
	case s.entry.key == p.entry.key:
		*s = leaf
		return n, false
	}
	moved := place[K, V]{s.entry, t.hash(s.entry.key) >> (below.depth * treeBits), below.depth}
	child := &node[K, V]{made: b}
	child, _ = child.set(b, t, moved)
	child, _ = child.set(b, t, below)
	*s = slot[K, V]{child: child}
	return n, true
}

// remove takes a key away, for the trees of the batch only.
func (t *tree[K, V]) remove(b *batch, key K) {
	if _, found := t.find(key); !found {
		return
	}
	t.size--
	t.root = t.root.remove(b, key, t.hash(key), 0)
	if len(t.root.slots) == 0 {
		t.root = nil
	}
}

// remove takes away a key that is there.
func (n *node[K, V]) remove(b *batch, key K, hash uint64, depth int) *node[K, V] {
	n = n.own(b)
	if depth == treeDepth {
		i := n.indexOf(key)
		n.slots = slices.Delete(n.slots, i, i+1)
		return n
	}
	bit := uint32(1) << (hash & treeMask)
	i := bits.OnesCount32(n.used & (bit - 1))
	s := &n.slots[i]
	if s.child == nil {
		n.used &^= bit
		n.slots = slices.Delete(n.slots, i, i+1)
		return n
	}
	s.child = s.child.remove(b, key, hash>>treeBits, depth+1)
	if left := s.child.slots; len(left) == 1 && left[0].child == nil {
		*s = left[0]
	}
	return n
}

// own returns the node itself if the batch made it, else a copy that the batch may change.
func (n *node[K, V]) own(b *batch) *node[K, V] {
	if n.made == b {
		return n
	}
	slots := make([]slot[K, V], len(n.slots), len(n.slots)+1)
	copy(slots, n.slots)
	return &node[K, V]{made: b, used: n.used, slots: slots}
}

func (n *node[K, V]) indexOf(key K) int {
	return slices.IndexFunc(n.slots, func(s slot[K, V]) bool { return s.entry.key == key })
}
