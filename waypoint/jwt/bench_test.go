package jwt_test

import (
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/waypoint/jwt"
)

// BenchmarkCheck tells what a token costs: the first time that it is seen, and after that.
func BenchmarkCheck(b *testing.B) {
	for _, a := range []string{"RS256", "ES256"} {
		k := newSigner(b, "k", jose.SignatureAlgorithm(a))
		s := trust(b, newKeys(b), inline(b, k)+"forward_token:true")
		req := bearer(k.sign(b, nil))
		b.Run(a+"/first", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := new(jwt.Checker).Check(s, req, now, nil); r.Token == nil {
					b.Fatal(outcome(r))
				}
			}
		})
		b.Run(a+"/remembered", func(b *testing.B) {
			var c jwt.Checker
			b.ReportAllocs()
			for b.Loop() {
				if r := c.Check(s, req, now, nil); r.Token == nil {
					b.Fatal(outcome(r))
				}
			}
		})
	}
}
