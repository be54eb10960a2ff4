// Package jwt verifies the tokens (RFC 7519) that requests bring, by the issuers that a service trusts, and tells policies and the server what they
// claim.
package jwt

import (
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/waypoint/claims"
	"github.com/tulle-mesh/tulle/waypoint/exchange"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

// Set is the issuers that are trusted by a service. It doesn't change.
type Set struct {
	places []place
	// outputs are the headers by which servers are told what tokens claim. Clients may not tell them.
	outputs []string
}

// place is where a token may be.
type place struct {
	location
	issuers []*issuer
}

// Assemble makes a set of all issuers. It is nil if there are none.
func Assemble(list []*Authentication) *Set {
	s := &Set{}
	for _, a := range list {
		for _, i := range a.issuers {
			for _, at := range i.locations {
				s.add(at, i)
			}
			s.outputs = append(s.outputs, i.outputs()...)
		}
	}
	if len(s.places) == 0 {
		return nil
	}
	return s
}

// Outputs are the headers by which servers are told what tokens claim.
func (s *Set) Outputs() []string {
	if s == nil {
		return nil
	}
	return slices.Clone(s.outputs)
}

// Tokens are those that a request brings.
func (s *Set) Tokens(req *exchange.Request) (tokens []string) {
	if s == nil {
		return nil
	}
	for i := range s.places {
		s.places[i].each(req, func(token string) bool {
			tokens = append(tokens, token)
			return true
		})
	}
	return tokens
}

func (s *Set) add(at location, i *issuer) {
	for n := range s.places {
		if s.places[n].location == at {
			s.places[n].issuers = append(s.places[n].issuers, i)
			return
		}
	}
	s.places = append(s.places, place{at, []*issuer{i}})
}

// Result is what became of a request's tokens.
type Result struct {
	// Waiting: keys are being fetched, and again will be called.
	Waiting bool
	// Refusal is why the request may not go on; nil if it may.
	Refusal *Refusal
	// Token is what the first valid token claims; nil if the request has none.
	Token *claims.Claims
}

// Refusal is the answer to a request whose token isn't valid. Its words are Istio's.
type Refusal struct {
	Status    int    // 401, or 403 for another audience's token
	Reason    string // the body
	Challenge string // the header www-authenticate (RFC 6750 section 3)
}

// Check verifies all tokens of a request, each of which has to be valid, and changes its head: what is told to servers, and tokens that aren't to go
// further. The path has to be normal. When keys have to be fetched first, it changes nothing, and again is called once, by another goroutine, when they
// have been fetched or when that has failed; then the same is to be asked again.
func (c *Checker) Check(s *Set, req *exchange.Request, now time.Time, again func()) Result {
	if s == nil { // nobody is trusted, so tokens mean nothing
		return Result{}
	}
	found := make([]finding, 0, 2)
	for i := range s.places {
		p := &s.places[i]
		last := valid
		p.each(req, func(token string) bool {
			v, status := c.verify(p.issuers, token, now, again)
			found, last = append(found, finding{v, p}), status
			return status == valid
		})
		switch last {
		case valid:
		case waiting:
			return Result{Waiting: true}
		default:
			return Result{Refusal: refusal(last, req)}
		}
	}
	for _, name := range s.outputs {
		req.Fields = exchange.Remove(req.Fields, name)
	}
	for _, f := range found {
		f.tell(req)
		if !f.issuer.forward {
			f.place.remove(req)
		}
	}
	if len(found) == 0 {
		return Result{}
	}
	return Result{Token: found[0].claims}
}

// finding is a token and where it was.
type finding struct {
	*verified
	place *place
}

// tell says to the server what the token claims.
func (v *verified) tell(req *exchange.Request) {
	if v.issuer.payloadHeader != "" {
		req.Fields = exchange.Set(req.Fields, v.issuer.payloadHeader, v.payload)
	}
	for _, h := range v.issuer.claimHeaders {
		value, ok := v.claims.Text(h.claim)
		if ok && !strings.ContainsAny(value, "\r\n\x00") {
			req.Fields = exchange.Set(req.Fields, h.name, value)
		}
	}
}

// maxRealm is how much of a request's URL a challenge repeats, in bytes.
const maxRealm = 256

func refusal(s status, req *exchange.Request) *Refusal {
	r := &Refusal{Status: 401, Reason: string(s)}
	if s == wrongAudience {
		r.Status = 403
	}
	path, _ := target.Split(req.Path)
	realm := req.Scheme + "://" + req.Authority + path
	realm = strings.NewReplacer(`"`, "%22", `\`, "%5C").Replace(realm[:min(len(realm), maxRealm)])
	r.Challenge = `Bearer realm="` + realm + `", error="invalid_token"`
	return r
}

// payloadOf returns a token's payload as it is, in base64url.
func payloadOf(token string) string {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	return payload
}
