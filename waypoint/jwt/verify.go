package jwt

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/waypoint/claims"
)

const (
	// maxToken is the longest token that is looked at, in bytes.
	maxToken = 32 << 10
	// leeway is how far our clock and an issuer's may differ.
	leeway = time.Minute
)

// algorithms are those of keys that only an issuer has (RFC 7518 section 3.1, RFC 8037).
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.EdDSA,
}

// status is what became of a token, in Istio's words.
type status string

const (
	valid             status = ""
	waiting           status = "waiting for keys"
	badFormat         status = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
	badAlgorithm      status = "Jwt header [alg] is not supported"
	badPayload        status = "Jwt payload is an invalid JSON"
	unknownIssuer     status = "Jwt issuer is not configured"
	wrongAudience     status = "Audiences in Jwt are not allowed"
	expired           status = "Jwt is expired"
	notYet            status = "Jwt not yet valid"
	unknownKey        status = "Jwks doesn't have key to match kid or alg from Jwt"
	wrongSignature    status = "Jwt verification fails"
	keysNotFetched    status = "Jwks remote fetch is failed"
	issuerMisdeclared status = "Jwt issuer has no usable keys"
)

// verified is a token that is.
type verified struct {
	issuer  *issuer
	keys    *keySet
	claims  *claims.Claims
	token   string // a copy, since what a request brings is a part of its whole head
	payload string // in base64url, of the copy
}

// Checker verifies tokens and remembers which were good. It is one event loop's alone.
type Checker struct {
	cache cache
}

// verify finds the issuer, of which there may be several of one name: then any of them will do.
func (c *Checker) verify(issuers []*issuer, token string, now time.Time, again func()) (*verified, status) {
	if v := c.cache.get(token); v != nil && slices.Contains(issuers, v.issuer) && v.keys == v.issuer.keysNow(now) {
		if s := v.inTime(now); s != valid {
			return nil, s
		}
		return v, valid
	}
	signed, said, s := parse(token)
	if s != valid {
		return nil, s
	}
	last := unknownIssuer
	for _, i := range issuers {
		if i.name != said.Issuer {
			continue
		}
		v := &verified{issuer: i, claims: said.WithWordLists(i.words)}
		switch last = v.check(signed, now, again); last {
		case valid:
			v.token = strings.Clone(token)
			v.payload = payloadOf(v.token)
			c.cache.put(v)
			return v, valid
		case waiting:
			return nil, waiting
		}
	}
	return nil, last
}

// parse reads a token, of which nothing is proven yet.
func parse(token string) (*jose.JSONWebSignature, *claims.Claims, status) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return nil, nil, badFormat
	}
	signed, err := jose.ParseSignedCompact(token, algorithms)
	var unexpected *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &unexpected):
		return nil, nil, badAlgorithm
	case err != nil || len(signed.Signatures) != 1:
		return nil, nil, badFormat
	}
	said, err := claims.Parse(signed.UnsafePayloadWithoutVerification())
	if err != nil {
		return nil, nil, badPayload
	}
	return signed, said, valid
}

// check proves a token.
func (v *verified) check(signed *jose.JSONWebSignature, now time.Time, again func()) status {
	if v.issuer.invalid != "" {
		return issuerMisdeclared
	}
	if s := v.inTime(now); s != valid {
		return s
	}
	if len(v.issuer.audiences) > 0 && !slices.ContainsFunc(v.claims.Audiences, func(a string) bool { return slices.Contains(v.issuer.audiences, a) }) {
		return wrongAudience
	}
	var s status
	if v.keys, s = v.issuer.keys(now, again); s != valid {
		return s
	}
	s = v.keys.verify(signed)
	if s == unknownKey && v.issuer.source != nil { // which may be new
		if v.keys, s = v.issuer.source.newer(v.keys, now, again); s == valid {
			s = v.keys.verify(signed)
		}
	}
	return s
}

func (v *verified) inTime(now time.Time) status {
	switch {
	case !v.claims.Expiry.IsZero() && now.After(v.claims.Expiry.Add(leeway)):
		return expired
	case now.Before(v.claims.NotBefore.Add(-leeway)):
		return notYet
	}
	return valid
}
