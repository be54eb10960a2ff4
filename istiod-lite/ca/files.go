package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// rootTTL is the life of a self-signed root.
const rootTTL = 3650 * 24 * time.Hour

// Names of files.
const (
	authorityFolder = "authority" // within the state folder: the self-signed key with its certificate
	certificateFile = "ca-cert.pem"
	keyFile         = "ca-key.pem"
	chainFile       = "cert-chain.pem"
	rootFile        = "root-cert.pem"
)

// layout is how a plugged authority's files are called.
type layout struct{ certificate, key, chain, root string }

// layouts are Istio's own, and that of a Kubernetes TLS secret.
func layouts() []layout {
	return []layout{
		{certificateFile, keyFile, chainFile, rootFile},
		{certificate: "tls.crt", key: "tls.key", root: "ca.crt"},
	}
}

// OptionalFolder is where an authority may be plugged in without being asked for, as a Secret that may or may not be there.
const OptionalFolder = "/etc/cacerts"

// Open returns the authority plugged in as files in the folder plugged, else the one kept in the folder state, which is made
// if there is none. Only OptionalFolder and "" may have nothing plugged in: elsewhere it was asked for, and to go on with
// another authority would split the mesh. The roots that clients trust are then in root-cert.pem in the state folder.
func Open(state, plugged, trustDomain string) (*Authority, error) {
	if err := os.MkdirAll(state, 0o755); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	a, err := openPlugged(plugged)
	if err == nil && a == nil {
		a, err = openOwn(state, trustDomain)
	}
	if err != nil {
		return nil, err
	}
	if err := replace(filepath.Join(state, rootFile), a.roots, 0o644); err != nil {
		return nil, fmt.Errorf("publish roots: %w", err)
	}
	return a, nil
}

// openPlugged reads the first layout of which there is a file. Half of one is an error: to fall back to another authority
// would split the mesh.
func openPlugged(dir string) (*Authority, error) {
	if dir == "" {
		return nil, nil
	}
	for _, l := range layouts() {
		var missing []string
		files := []string{l.certificate, l.key, l.root}
		if l.chain != "" {
			files = append(files, l.chain)
		}
		for _, name := range files {
			if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
				missing = append(missing, name)
			}
		}
		if len(missing) == len(files) {
			continue
		}
		if len(missing) > 0 {
			return nil, fmt.Errorf("plugged authority in %s lacks %v", dir, missing)
		}
		a, err := load(dir, l)
		if err != nil {
			return nil, fmt.Errorf("plugged authority in %s: %w", dir, err)
		}
		return a, nil
	}
	if dir != OptionalFolder {
		return nil, fmt.Errorf("no authority is plugged in at %s: put %s, %s, %s and %s there, or leave --cacerts out for an own authority",
			dir, certificateFile, keyFile, chainFile, rootFile)
	}
	return nil, nil
}

func load(dir string, l layout) (*Authority, error) {
	key, err := readKey(filepath.Join(dir, l.key))
	if err != nil {
		return nil, err
	}
	chain, err := readCertificates(filepath.Join(dir, l.certificate))
	if err != nil {
		return nil, err
	}
	roots, err := readCertificates(filepath.Join(dir, l.root))
	if err != nil {
		return nil, err
	}
	if l.chain != "" {
		above, err := readCertificates(filepath.Join(dir, l.chain))
		if err != nil {
			return nil, err
		}
		for _, certificate := range above {
			// The chain usually begins with the signer once more.
			if !contains(chain, certificate) {
				chain = append(chain, certificate)
			}
		}
	}
	return newAuthority(key, chain, roots, time.Now())
}

// openOwn reads the self-signed authority, or makes it. Key and certificate are made in a folder that then gets its name
// in one step, so that of several that try at once one wins, and nobody ever sees half of it.
func openOwn(state, trustDomain string) (*Authority, error) {
	dir := filepath.Join(state, authorityFolder)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := create(state, dir, trustDomain); err != nil {
			return nil, fmt.Errorf("make authority in %s: %w", state, err)
		}
	}
	a, err := load(dir, layout{certificate: certificateFile, key: keyFile, root: certificateFile})
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	return a, nil
}

func create(state, dir, trustDomain string) error {
	making, err := os.MkdirTemp(state, ".authority-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(making) // nothing is left of it under this name if it became the authority
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	certificate, err := selfSigned(trustDomain, time.Now(), key)
	if err != nil {
		return err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(making, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600); err != nil {
		return err
	}
	if err := write(filepath.Join(making, certificateFile), encodeCertificate(certificate), 0o644); err != nil {
		return err
	}
	if err := os.Rename(making, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil // made here, or by another at the same time
}

// write makes a new file that is on disk when it returns.
func write(path string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

// replace changes a file in one step.
func replace(path string, data []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && slices.Equal(old, data) {
		return nil
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".replace-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	making := filepath.Join(dir, filepath.Base(path))
	if err := write(making, data, mode); err != nil {
		return err
	}
	return os.Rename(making, path)
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, certificate)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no certificate in PEM", path)
	}
	return list, nil
}

// readKey reads the three forms that tools write.
func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no key in PEM", path)
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: not a private key in PKCS 8, PKCS 1 or SEC 1: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T cannot sign", path, key)
	}
	return signer, nil
}
