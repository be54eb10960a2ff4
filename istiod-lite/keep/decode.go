package keep

import (
	"fmt"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// Names of a Secret's entries beside those of a plugged authority: the root that is announced.
const (
	nextCertificateName = "next-cert.pem"
	nextKeyName         = "next-key.pem"
)

// decode reads a Secret. Those of Istio may lack the roots, or have empty ones: the root is the signer itself.
func decode(data map[string][]byte) (state, error) {
	parts := map[string][]byte{}
	for name, value := range data {
		if len(value) > 0 {
			parts[name] = value
		}
	}
	l := layouts()[0]
	if parts[l.root] == nil {
		parts[l.root] = parts[l.certificate]
	}
	if parts[l.chain] == nil {
		parts[l.chain] = parts[l.certificate]
	}
	m, err := l.material(parts)
	if err != nil {
		return state{}, err
	}
	s := state{signer: pair{m.Chain[0], m.Key}, above: m.Chain[1:], roots: m.Roots}
	if parts[nextCertificateName] != nil || parts[nextKeyName] != nil {
		if s.next, err = decodeNext(parts); err != nil {
			return state{}, err
		}
	}
	return s, nil
}

func decodeNext(parts map[string][]byte) (*pair, error) {
	key, err := parseKey(nextKeyName, parts[nextKeyName])
	if err != nil {
		return nil, err
	}
	certificates, err := parseCertificates(nextCertificateName, parts[nextCertificateName])
	if err != nil {
		return nil, err
	}
	m := ca.Material{Key: key, Chain: certificates[:1], Roots: certificates[:1]}
	if _, err := ca.New(m); err != nil {
		return nil, fmt.Errorf("%s: %w", nextCertificateName, err)
	}
	return &pair{certificates[0], key}, nil
}

// encode writes a state over what a Secret held; entries of others stay.
func (s state) encode(data map[string][]byte) (map[string][]byte, error) {
	key, err := encodeKey(s.signer.key)
	if err != nil {
		return nil, err
	}
	encoded := map[string][]byte{}
	for name, value := range data {
		encoded[name] = value
	}
	encoded[certificateName] = ca.EncodeCertificate(s.signer.certificate)
	encoded[keyName] = key
	encoded[chainName] = encodeCertificates(s.above)
	encoded[rootName] = encodeCertificates(s.roots)
	delete(encoded, nextCertificateName)
	delete(encoded, nextKeyName)
	if s.next == nil {
		return encoded, nil
	}
	if encoded[nextKeyName], err = encodeKey(s.next.key); err != nil {
		return nil, err
	}
	encoded[nextCertificateName] = ca.EncodeCertificate(s.next.certificate)
	return encoded, nil
}
