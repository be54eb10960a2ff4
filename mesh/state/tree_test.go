package state

import (
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"testing"
)

// hashes are good and bad ways to spread keys: with the bad ones every key takes the same way down.
var hashes = map[string]func(int) uint64{
	"spread":    func(k int) uint64 { return maphash.Comparable(seedOfTests, k) },
	"one":       func(int) uint64 { return 42 },
	"high bits": func(k int) uint64 { return uint64(k) << 60 },
}

var seedOfTests = maphash.MakeSeed()

func TestTreeIsAMap(t *testing.T) {
	for name, hash := range hashes {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			tr := tree[int, int]{hash: hash}
			want := map[int]int{}
			for range 300 {
				b := new(batch)
				before, kept := tr, maps.Clone(want)
				for range random.IntN(20) {
					key := random.IntN(100)
					if random.IntN(3) == 0 {
						tr.remove(b, key)
						delete(want, key)
					} else {
						tr.set(b, key, random.Int())
						want[key] = tr.get(key)
					}
				}
				checkTree(t, &tr, want)
				checkTree(t, &before, kept)
			}
			for key := range want {
				tr.remove(new(batch), key)
			}
			if tr.root != nil || tr.size != 0 {
				t.Errorf("after removing every key the tree has a root %v and size %d", tr.root, tr.size)
			}
		})
	}
}

func checkTree(t *testing.T, tr *tree[int, int], want map[int]int) {
	t.Helper()
	if got := maps.Collect(tr.all()); !maps.Equal(got, want) || tr.size != len(want) {
		t.Fatalf("tree of size %d has %v, want %v", tr.size, got, want)
	}
	for key := range 100 {
		got, found := tr.find(key)
		if value, ok := want[key]; found != ok || got != value {
			t.Fatalf("find(%d) = %d, %v; want %d, %v", key, got, found, value, ok)
		}
	}
}

func TestTreeWalkStops(t *testing.T) {
	tr := newTree[int, int](seedOfTests)
	for i := range 1000 {
		tr.set(new(batch), i, i)
	}
	seen := 0
	for range tr.all() {
		if seen++; seen == 500 {
			break
		}
	}
	if seen != 500 {
		t.Errorf("walked %d keys, want to stop at 500", seen)
	}
}
