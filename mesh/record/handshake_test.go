package record

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"testing"
)

func (r Role) String() string { return [...]string{"client", "server"}[r] }

var bothRoles = []Role{Client, Server}

// exchange sends random bytes both ways at once and ends both directions.
func exchange(t *testing.T, a, b stream, n int) {
	t.Helper()
	results := make(chan error, 4)
	send := func(from, to stream) {
		sent := make([]byte, n)
		_, _ = rand.Read(sent)
		go func() {
			_, err := from.Write(sent)
			results <- errors.Join(err, from.CloseWrite())
		}()
		go func() {
			got, err := io.ReadAll(to)
			if err == nil && !bytes.Equal(got, sent) {
				err = errors.New("what arrived isn't what was sent")
			}
			results <- err
		}()
	}
	send(a, b)
	send(b, a)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestTalksWithCryptoTLS(t *testing.T) {
	for _, role := range bothRoles {
		t.Run("as "+role.String(), func(t *testing.T) {
			client, server := configs(t)
			ours, theirs := establish(t, role, client, server)
			exchange(t, ours, theirs, 1<<20+7)
		})
	}
}

func TestTalksWithItself(t *testing.T) {
	client, server := configs(t)
	a, b := sockets(t)
	type end struct {
		*driven
		err error
	}
	accepted := make(chan end)
	go func() {
		d, err := drive(b, server, Server)
		accepted <- end{d, err}
	}()
	ours, err := drive(a, client, Client)
	theirs := <-accepted
	if err := errors.Join(err, theirs.err); err != nil {
		t.Fatal(err)
	}
	if ours.state.Version != tls.VersionTLS13 || len(theirs.state.PeerCertificates) == 0 {
		t.Errorf("agreed: %+v", ours.state)
	}
	exchange(t, ours, theirs, 1<<20)
}
