package decode

import (
	"errors"
	"fmt"
	"strings"

	istio "istio.io/api/security/v1beta1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func requestAuthentication(o *resource[istio.RequestAuthentication, *istio.RequestAuthentication]) (model.Object, error) {
	spec := o.Spec.get()
	a := &model.RequestAuthentication{
		Namespace: within(o.ObjectMeta), Name: o.Name, Generation: o.Generation, Revision: o.Labels[model.RevisionLabel],
		Targeted: spec.TargetRef != nil || len(spec.TargetRefs) > 0,
	}
	if a.Targeted && spec.Selector != nil {
		return nil, at("spec.selector", errors.New("selector and targetRefs exclude each other"))
	}
	var err error
	if a.Targets, err = targets(a.Namespace, spec.TargetRef, spec.TargetRefs); err != nil {
		return nil, err
	}
	for i, rule := range spec.JwtRules {
		issuer, err := tokenIssuer(fmt.Sprintf("spec.jwtRules[%d]", i), rule)
		if err != nil {
			return nil, err
		}
		a.Issuers = append(a.Issuers, issuer)
	}
	return a, nil
}

func tokenIssuer(path string, o *istio.JWTRule) (model.TokenIssuer, error) {
	issuer := model.TokenIssuer{
		Issuer: o.Issuer, Audiences: o.Audiences, KeysURI: o.JwksUri, Keys: o.Jwks, Params: o.FromParams, Cookies: o.FromCookies,
		Forward: o.ForwardOriginalToken, PayloadHeader: o.OutputPayloadToHeader, WordLists: o.SpaceDelimitedClaims,
		FetchTimeout: o.Timeout.AsDuration(),
	}
	switch {
	case o.Issuer == "":
		return issuer, at(path+".issuer", errors.New("missing"))
	case o.JwksUri != "" && o.Jwks != "":
		return issuer, at(path+".jwks", errors.New("jwks and jwksUri exclude each other"))
	case issuer.FetchTimeout < 0:
		return issuer, at(path+".timeout", errors.New("less than nothing"))
	}
	for i, header := range o.FromHeaders {
		if header.GetName() == "" {
			return issuer, at(fmt.Sprintf("%s.fromHeaders[%d].name", path, i), errors.New("missing"))
		}
		issuer.Headers = append(issuer.Headers, model.TokenHeader{Name: strings.ToLower(header.Name), Prefix: header.Prefix})
	}
	for i, header := range o.OutputClaimToHeaders {
		if header.GetHeader() == "" || header.GetClaim() == "" {
			return issuer, at(fmt.Sprintf("%s.outputClaimToHeaders[%d]", path, i), errors.New("want header and claim"))
		}
		issuer.ClaimHeaders = append(issuer.ClaimHeaders, model.ClaimHeader{Header: header.Header, Claim: header.Claim})
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"audiences", o.Audiences}, {"fromParams", o.FromParams}, {"fromCookies", o.FromCookies}, {"spaceDelimitedClaims", o.SpaceDelimitedClaims}} {
		for i, value := range list.values {
			if value == "" {
				return issuer, at(fmt.Sprintf("%s.%s[%d]", path, list.name, i), errors.New("an empty value"))
			}
		}
	}
	return issuer, nil
}
