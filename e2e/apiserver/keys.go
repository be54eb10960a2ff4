package apiserver

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tulle-mesh/tulle/e2e/keys"
)

// The files with keys, in the server's folder.
const (
	caFile     = "ca.crt"
	serverCert = "apiserver.crt"
	serverKey  = "apiserver.key"
	tokenKey   = "sa.key" // signs the tokens of service accounts
	tokenPub   = "sa.pub"
)

// writeKeys makes all keys of an API server.
func (s *Server) writeKeys() error {
	var err error
	if s.authority, err = keys.NewAuthority(); err != nil {
		return err
	}
	serving, err := s.authority.Server("kube-apiserver", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1")
	if err != nil {
		return err
	}
	signer, err := keys.Signer()
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		caFile: s.authority.PEM, serverCert: serving.Public, serverKey: serving.Private, tokenKey: signer.Private, tokenPub: signer.Public,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
			return fmt.Errorf("keys of the API server: %w", err)
		}
	}
	return nil
}
