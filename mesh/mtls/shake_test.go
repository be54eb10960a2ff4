package mtls_test

import (
	"crypto/tls"
	"net"
)

// shake makes a handshake in memory.
func shake(server, client *tls.Config) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, server).Handshake() }()
	err := tls.Client(b, client).Handshake()
	if other := <-done; err == nil {
		err = other
	}
	return err
}
