package model

import "time"

// RequestAuthentication says which tokens of requests are valid.
type RequestAuthentication struct {
	Namespace, Name string
	Generation      int64
	Revision        string
	// Targeted says that it is attached to something, Targets to what of a kind that the mesh knows. Others are for
	// sidecars.
	Targeted bool
	Targets  []Target
	Issuers  []TokenIssuer
}

// Key names it.
func (a *RequestAuthentication) Key() Key {
	return Key{KindRequestAuthentication, Name{a.Namespace, a.Name}}
}

func (a *RequestAuthentication) revision() string { return a.Revision }

// TokenIssuer is who makes tokens, and how they come with requests.
type TokenIssuer struct {
	Issuer    string
	Audiences []string
	// KeysURI is where its public keys are, Keys has them itself; neither means its OpenID configuration says where.
	KeysURI, Keys string
	// Headers, Params and Cookies are where a token may be; none at all means the usual places.
	Headers         []TokenHeader
	Params, Cookies []string
	Forward         bool
	// PayloadHeader gets the token's payload; empty for none.
	PayloadHeader string
	ClaimHeaders  []ClaimHeader
	// WordLists are claims that hold several words.
	WordLists    []string
	FetchTimeout time.Duration // 0 leaves it to the waypoint
}

// TokenHeader is a header with a token behind a prefix. Its name is in lower case.
type TokenHeader struct{ Name, Prefix string }

// ClaimHeader is a header that gets the value of a claim.
type ClaimHeader struct{ Header, Claim string }
