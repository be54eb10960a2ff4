package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"
)

// servingTTL is the life of the control plane's own certificate. A new one is made at half of it.
const servingTTL = DefaultTTL

// Serving is the control plane's own certificate, which its authority signs.
type Serving struct {
	authority *Live
	names     []string

	lock    sync.Mutex
	by      *Authority // that signed current
	current *tls.Certificate
}

// NewServing makes a certificate for the DNS names.
func NewServing(authority *Live, names []string) (*Serving, error) {
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

// get returns the certificate, and makes a new one when half of its life is over or another authority signs. Should that
// fail, the old one serves.
func (s *Serving) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	authority := s.authority.Authority()
	if s.current != nil && s.by == authority {
		leaf := s.current.Leaf
		if time.Now().Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)) {
			return s.current, nil
		}
	}
	fresh, err := s.make(authority)
	if err != nil && s.current != nil {
		return s.current, nil
	}
	if err != nil {
		return nil, fmt.Errorf("make certificate of the control plane: %w", err)
	}
	s.by, s.current = authority, fresh
	return fresh, nil
}

func (s *Serving) make(authority *Authority) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{DNSNames: s.names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	leaf, err := authority.sign(template, key.Public(), servingTTL)
	if err != nil {
		return nil, err
	}
	certificate := &tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}
	for _, one := range authority.above(template.NotAfter) {
		certificate.Certificate = append(certificate.Certificate, one.der)
	}
	certificate.Leaf, err = x509.ParseCertificate(leaf)
	return certificate, err
}
