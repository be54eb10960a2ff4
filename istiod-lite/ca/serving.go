package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync"
	"time"
)

// servingTTL is the life of the control plane's own certificate. A new one is made at half of it.
const servingTTL = DefaultTTL

// Serving is the control plane's own certificate, which its authority signs.
type Serving struct {
	authority *Authority
	names     []string

	lock    sync.Mutex
	current *tls.Certificate
}

// NewServing makes a certificate for the DNS names.
func NewServing(authority *Authority, names []string) (*Serving, error) {
	s := &Serving{authority: authority, names: names}
	if _, err := s.get(nil); err != nil {
		return nil, err
	}
	return s, nil
}

// Config returns how to serve with the certificate, whichever is current when a client connects.
func (s *Serving) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.get, NextProtos: []string{"h2"}}
}

// get returns the certificate, and makes a new one when half of its life is over. Should that fail, the old one serves.
func (s *Serving) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.current != nil {
		leaf := s.current.Leaf
		if time.Now().Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)) {
			return s.current, nil
		}
	}
	fresh, err := s.make()
	if err != nil && s.current != nil {
		return s.current, nil
	}
	if err != nil {
		return nil, fmt.Errorf("make certificate of the control plane: %w", err)
	}
	s.current = fresh
	return fresh, nil
}

func (s *Serving) make() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := s.authority.sign(&x509.Certificate{
		DNSNames:    s.names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public(), servingTTL)
	if err != nil {
		return nil, err
	}
	certificate := &tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}
	for _, text := range s.authority.chain {
		block, _ := pem.Decode([]byte(text))
		certificate.Certificate = append(certificate.Certificate, block.Bytes)
	}
	certificate.Leaf, err = x509.ParseCertificate(leaf)
	return certificate, err
}
