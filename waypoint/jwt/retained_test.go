package jwt_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
)

// A token that is remembered is a part of a head, which mustn't stay with it, however the token comes again.
func TestTokensThatAreRememberedKeepNoHeads(t *testing.T) {
	key := newSigner(t, "k", "ES256")
	s := trust(t, newKeys(t), inline(t, key))
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var c jwt.Checker
	bring := func(token string) {
		head := strings.Repeat("x", 60_000) + "Bearer " + token // as codecs make it
		req := &exchange.Request{Path: "/", Fields: []exchange.Field{{Name: "authorization", Value: head[60_000:]}}}
		if got := outcome(c.Check(s, req, now, nil)); !strings.HasPrefix(got, "me/") {
			t.Fatal(got)
		}
	}
	const tokens = 500
	var all []string
	for i := range tokens {
		all = append(all, key.sign(t, map[string]any{"sub": fmt.Sprint(i), "more": strings.Repeat("y", 3000)}))
	}
	before := used()
	for range 3 { // more than one half of what is remembered
		for _, token := range all {
			bring(token)
		}
	}
	if grown := int64(used()) - int64(before); grown > 20<<20 {
		t.Errorf("%d tokens keep %d KiB", tokens, grown>>10)
	}
	runtime.KeepAlive(&c)
}
