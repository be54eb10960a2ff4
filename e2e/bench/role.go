package main

import (
	"fmt"
	"io"
	"os"

	"github.com/tulle-mesh/tulle/e2e/bench/load"
	"github.com/tulle-mesh/tulle/e2e/bench/relay"
)

// The benchmark runs itself in the pods too, as what this variable says.
const (
	roleVariable = "TULLE_BENCH_ROLE"
	roleLoad     = "load"
	roleRelay    = "relay"
	roleTLSRelay = "tls-relay"

	// credentialVariable is where tls-relays find their key.
	credentialVariable = "TULLE_BENCH_CREDENTIAL"
)

// play is the whole program in a role. It ends when its standard input does, so that it outlives nobody.
func play(role string) error {
	switch role {
	case roleLoad:
		return load.Serve()
	case roleRelay, roleTLSRelay:
		r := &relay.Relay{Mode: relay.Plain}
		if role == roleTLSRelay {
			r = &relay.Relay{Mode: relay.TLS, Credential: os.Getenv(credentialVariable)}
		}
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
		return r.Serve()
	}
	return fmt.Errorf("%s=%s: no such role", roleVariable, role)
}
