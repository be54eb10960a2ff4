package jwt

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// Authentication is a list of issuers of a user's, compiled. It doesn't change.
type Authentication struct {
	issuers []*issuer
}

// issuer makes tokens.
type issuer struct {
	name          string
	audiences     []string // none means any
	locations     []location
	forward       bool
	payloadHeader string
	claimHeaders  []claimHeader
	words         []string
	// One of them: why no token can be checked; the keys; where they come from.
	invalid string
	inline  *keySet
	source  *source
}

type claimHeader struct {
	name  string
	claim []string
}

func (i *issuer) outputs() (names []string) {
	if i.payloadHeader != "" {
		names = append(names, i.payloadHeader)
	}
	for _, h := range i.claimHeaders {
		names = append(names, h.name)
	}
	return names
}

// Compile makes issuers of the control plane's, and begins to fetch the keys that have to be fetched. Of one that can't be obeyed no token is valid;
// the error says why. Release is to be called when the issuers are no longer in force.
func (k *Keys) Compile(origin *l7.Origin, a *l7.Authentication, now time.Time) (*Authentication, error) {
	out := &Authentication{}
	var problems []error
	for _, from := range a.GetIssuers() {
		i := &issuer{
			name: from.GetIssuer(), audiences: from.GetAudiences(), locations: locations(from), forward: from.GetForwardToken(),
			payloadHeader: strings.ToLower(from.GetPayloadHeader()), words: from.GetWordListClaims(), invalid: from.GetInvalid(),
		}
		for _, h := range from.GetClaimHeaders() {
			i.claimHeaders = append(i.claimHeaders, claimHeader{strings.ToLower(h.GetHeader()), h.GetClaim()})
		}
		if err := k.compileKeys(i, from, now); err != nil {
			i.invalid = err.Error()
			problems = append(problems, fmt.Errorf("%s %s/%s: issuer %s: %w", origin.GetKind(), origin.GetNamespace(), origin.GetName(), i.name, err))
		}
		out.issuers = append(out.issuers, i)
	}
	return out, errors.Join(problems...)
}

func (k *Keys) compileKeys(i *issuer, from *l7.Issuer, now time.Time) (err error) {
	if i.invalid != "" {
		return nil
	}
	if keys := from.GetJwks(); keys != "" {
		i.inline, err = parseKeys([]byte(keys))
		return err
	}
	at := address{url: from.GetJwksUri(), timeout: time.Duration(from.GetFetchTimeoutMs()) * time.Millisecond}
	if at.url == "" {
		at.url, at.discover = i.name, true
	}
	if parsed, err := url.Parse(at.url); err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return fmt.Errorf("%q is no address to fetch keys from", at.url)
	}
	if at.timeout <= 0 {
		at.timeout = defaultTimeout
	}
	at.timeout = min(at.timeout, maxTimeout)
	i.source = k.acquire(at, now)
	return nil
}

// Release stops fetching what only these issuers need.
func (k *Keys) Release(a *Authentication) {
	for _, i := range a.issuers {
		if i.source != nil {
			k.release(i.source)
		}
	}
}
