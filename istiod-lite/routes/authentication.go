package routes

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// authentication makes what waypoints read of a RequestAuthentication with targets. Others are for sidecars.
func (t translation) authentication(a *model.RequestAuthentication) Result {
	if !a.Targeted {
		return Result{Conditions: []model.Condition{{
			Type: model.WaypointAccepted, Reason: targetNotFound,
			Message: "only targetRefs attach it to waypoints: without them nothing reads it, and no token is checked",
		}}}
	}
	out := &l7.Authentication{}
	var problems []string
	for i := range a.Issuers {
		one := issuer(&a.Issuers[i])
		if one.Invalid != "" {
			problems = append(problems, fmt.Sprintf("issuer %s: %s: its tokens are all refused", one.Issuer, one.Invalid))
		}
		out.Issuers = append(out.Issuers, one)
	}
	resource := &l7.Resource{Schema: schema, Origin: origin(a.Key()), Kind: &l7.Resource_Authentication{Authentication: out}}
	return t.targeted(a.Key(), a.Targets, resource, problems)
}

func issuer(i *model.TokenIssuer) *l7.Issuer {
	out := &l7.Issuer{
		Issuer: i.Issuer, Audiences: i.Audiences, FromParams: i.Params, FromCookies: i.Cookies, ForwardToken: i.Forward,
		PayloadHeader: strings.ToLower(i.PayloadHeader), WordListClaims: i.WordLists, FetchTimeoutMs: i.FetchTimeout.Milliseconds(),
	}
	for _, header := range i.Headers {
		out.FromHeaders = append(out.FromHeaders, &l7.TokenHeader{Name: header.Name, Prefix: header.Prefix})
	}
	if len(i.Headers)+len(i.Params)+len(i.Cookies) == 0 {
		out.FromHeaders = []*l7.TokenHeader{{Name: "authorization", Prefix: "Bearer "}}
		out.FromParams = []string{"access_token"}
	}
	for _, header := range i.ClaimHeaders {
		out.ClaimHeaders = append(out.ClaimHeaders, &l7.ClaimHeader{
			Header: strings.ToLower(header.Header), Claim: strings.Split(header.Claim, "."),
		})
	}
	switch {
	case i.Keys != "":
		out.Keys = &l7.Issuer_Jwks{Jwks: i.Keys}
		out.Invalid = keysProblem(i.Keys)
	case i.KeysURI != "":
		out.Keys = &l7.Issuer_JwksUri{JwksUri: i.KeysURI}
		out.Invalid = uriProblem(i.KeysURI)
	default:
		out.Invalid = uriProblem(i.Issuer)
	}
	return out
}

// keysProblem looks at a JSON Web Key Set no closer than whether it is one; which keys are of use the waypoint finds out.
func keysProblem(text string) string {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return "jwks is no JSON Web Key Set: " + err.Error()
	}
	if len(set.Keys) == 0 {
		return "jwks has no keys"
	}
	return ""
}

func uriProblem(text string) string {
	if at, err := url.Parse(text); err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return fmt.Sprintf("%q is no address to fetch keys from: set jwks or jwksUri", text)
	}
	return ""
}
