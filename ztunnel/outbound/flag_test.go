package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

func resolver(t *testing.T, addrs []string, err error) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "api.example.com" {
			t.Errorf("asked for %q", host)
		}
		var list []netip.Addr
		for _, addr := range addrs {
			list = append(list, netip.MustParseAddr(addr))
		}
		return list, err
	}
}

func TestFlagsOfFailures(t *testing.T) {
	timeout := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	at := func(stage hbone.Stage, err error) error { return &hbone.DialError{Stage: stage, Err: err} }
	for _, test := range []struct {
		err  error
		want string
	}{
		{&hbone.StatusError{Status: 401}, "DENY"},
		{&hbone.StatusError{Status: 400}, "CONNECT"},
		{&hbone.StatusError{Status: 503}, "CONNECT"},
		{at(hbone.StageConnect, refused), "CONNECT"},
		{at(hbone.StageConnect, timeout), "NETWORK_POLICY"},
		{at(hbone.StageIdentity, errors.New("CA is down")), "IDENTITY_ERROR"},
		{at(hbone.StageTLS, errors.New("bad certificate")), "TLS_FAILURE"},
		{at(hbone.StageTLS, timeout), "TLS_FAILURE"},
		{at(hbone.StageTLS, &mtls.RevokedError{}), "CERT_REVOKED"},
		{&mtls.RevokedError{}, "CERT_REVOKED"},
		{at(hbone.StageHTTP2, errors.New("no settings")), "H2_HANDSHAKE_FAILURE"},
		{fmt.Errorf("dial: %w", refused), "CONNECT"},
		{fmt.Errorf("dial: %w", timeout), "NETWORK_POLICY"},
		{context.DeadlineExceeded, "CONNECT"},
	} {
		if got := flag(test.err); got != test.want {
			t.Errorf("flag(%v) = %s, want %s", test.err, got, test.want)
		}
	}
}
