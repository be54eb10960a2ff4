package index_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/index"
)

// A head of many long lines of one name is looked at once, not once for each of its lines.
func TestManyLinesOfAHeaderAreOneValue(t *testing.T) {
	var fields []exchange.Field
	for range 200 {
		fields = append(fields, exchange.Field{Name: "x", Value: strings.Repeat("y", 300)})
	}
	value, _ := exchange.Joined(fields, "x")
	all := index.New([]index.Entry{{{{Kind: index.Header, Name: "x", Value: value}}}})
	asked := 0
	allocs := testing.AllocsPerRun(10, func() {
		s := all.Begin(func(int32) bool {
			asked++
			return false
		})
		s.Headers(fields)
	})
	if asked != 11 || allocs > 20 {
		t.Errorf("asked %d times in 11 searches, with %v allocations in each", asked, allocs)
	}
}
