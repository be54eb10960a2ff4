package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// maxKeys is how many keys of a set are looked at.
const maxKeys = 100

// keySet is the public keys of an issuer. It doesn't change.
type keySet struct {
	text string
	keys []jose.JSONWebKey
}

// parseKeys reads a JSON Web Key Set (RFC 7517 section 5), and leaves out keys that can't be used, as that section asks for: those for
// encryption, of unknown types, and secret ones.
func parseKeys(text []byte) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("a key set of %d keys, the limit is %d", len(raw.Keys), maxKeys)
	}
	set := &keySet{text: string(text)}
	for _, one := range raw.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(one) == nil && key.Valid() && isPublic(key.Key) && (key.Use == "" || key.Use == "sig") {
			set.keys = append(set.keys, key)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("the key set has no public key for signatures")
	}
	return set, nil
}

func isPublic(key any) bool {
	switch key.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// verify tries the keys that a token may be signed by.
func (s *keySet) verify(signed *jose.JSONWebSignature) status {
	header := signed.Signatures[0].Header
	result := unknownKey
	for i := range s.keys {
		key := &s.keys[i]
		if key.KeyID != "" && header.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm ||
			!suits(key.Key, jose.SignatureAlgorithm(header.Algorithm)) {
			continue
		}
		if _, err := signed.Verify(key.Key); err == nil {
			return valid
		}
		result = wrongSignature
	}
	return result
}

// suits tells whether an algorithm is of the key's type (RFC 7518 section 3.1, RFC 8037 section 3.1).
func suits(key any, a jose.SignatureAlgorithm) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return slices.Contains([]jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, a)
	case *ecdsa.PublicKey:
		return curves[a] != nil && curves[a] == key.Curve
	case ed25519.PublicKey:
		return a == jose.EdDSA
	}
	return false
}

var curves = map[jose.SignatureAlgorithm]elliptic.Curve{jose.ES256: elliptic.P256(), jose.ES384: elliptic.P384(), jose.ES512: elliptic.P521()}
