// Package keep keeps what the certificate authority signs with: an authority plugged in as files, which may be replaced
// while it is in use; or a self-signed one of its own, in a folder, or in a Secret in which it is replaced before it ends.
package keep

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// Names of files and of a Secret's entries.
const (
	certificateName = "ca-cert.pem"
	keyName         = "ca-key.pem"
	chainName       = "cert-chain.pem"
	rootName        = "root-cert.pem"
	revokedName     = "ca-crl.pem"
)

const (
	// maxBytes bounds each of them; a Secret can't hold more.
	maxBytes = 1 << 20
	// maxCertificates bounds what one of them holds.
	maxCertificates = 200
)

// layout is how an authority's parts are called.
type layout struct{ certificate, key, chain, root string }

// layouts are Istio's own, and that of a Kubernetes TLS secret.
func layouts() []layout {
	return []layout{
		{certificateName, keyName, chainName, rootName},
		{certificate: "tls.crt", key: "tls.key", root: "ca.crt"},
	}
}

// material reads an authority's parts.
func (l layout) material(parts map[string][]byte) (ca.Material, error) {
	var m ca.Material
	var err error
	if m.Key, err = parseKey(l.key, parts[l.key]); err != nil {
		return m, err
	}
	if m.Chain, err = parseCertificates(l.certificate, parts[l.certificate]); err != nil {
		return m, err
	}
	if m.Roots, err = parseCertificates(l.root, parts[l.root]); err != nil {
		return m, err
	}
	if l.chain != "" {
		above, err := parseCertificates(l.chain, parts[l.chain])
		if err != nil {
			return m, err
		}
		// The chain usually begins with the signer once more.
		m.Chain = merge(m.Chain, above)
	}
	m.Revoked = parts[revokedName]
	return m, checkRevoked(m.Revoked)
}

// merge adds the certificates that aren't there yet.
func merge(list, more []*x509.Certificate) []*x509.Certificate {
	for _, one := range more {
		if !has(list, one) {
			list = append(list, one)
		}
	}
	return list
}

func has(list []*x509.Certificate, one *x509.Certificate) bool {
	for _, each := range list {
		if each.Equal(one) {
			return true
		}
	}
	return false
}

// blocks calls visit with each block of a PEM text.
func blocks(name string, data []byte, visit func(*pem.Block) error) error {
	if len(data) > maxBytes {
		return fmt.Errorf("%s exceeds %d bytes", name, maxBytes)
	}
	for count := 0; ; count++ {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil
		}
		if count == maxCertificates {
			return fmt.Errorf("%s has more than %d blocks of PEM", name, maxCertificates)
		}
		if err := visit(block); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

func parseCertificates(name string, data []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	err := blocks(name, data, func(block *pem.Block) error {
		certificate, err := x509.ParseCertificate(block.Bytes)
		list = append(list, certificate)
		return err
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s: no certificate in PEM", name)
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

// checkRevoked refuses lists that clients couldn't read: they would go on with older ones.
func checkRevoked(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	none := true
	err := blocks(revokedName, data, func(block *pem.Block) error {
		none = false
		_, err := x509.ParseRevocationList(block.Bytes)
		return err
	})
	if err == nil && none {
		return fmt.Errorf("%s: no revocation list in PEM", revokedName)
	}
	return err
}

// parseKey reads the three forms that tools write. OpenSSL puts the parameters of a curve before its key.
func parseKey(name string, data []byte) (crypto.Signer, error) {
	var found *pem.Block
	err := blocks(name, data, func(block *pem.Block) error {
		if found == nil && block.Type != "EC PARAMETERS" {
			found = block
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case found == nil:
		return nil, fmt.Errorf("%s: no key in PEM", name)
	}
	if key, err := x509.ParseECPrivateKey(found.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(found.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(found.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: not a private key in PKCS 8, PKCS 1 or SEC 1: %w", name, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T cannot sign", name, key)
	}
	return signer, nil
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the authority's key can't be written in PKCS 8")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func encodeCertificates(list []*x509.Certificate) []byte {
	var text []byte
	for _, certificate := range list {
		text = append(text, ca.EncodeCertificate(certificate)...)
	}
	return text
}
