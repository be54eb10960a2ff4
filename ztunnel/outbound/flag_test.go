package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

func TestFlagsOfFailures(t *testing.T) {
	timeout := fmt.Errorf("dial 10.0.0.1:80: %w", &loop.ConnectTimeout{After: 10 * time.Second})
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

func TestWhichFailuresAreTriedElsewhere(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"nobody listens", refused, true},
		{"no tunnel", &hbone.DialError{Stage: hbone.StageConnect, Err: refused}, true},
		{"somebody else answers", &hbone.DialError{Stage: hbone.StageTLS, Err: errors.New("bad certificate")}, true},
		{"no HTTP/2", &hbone.DialError{Stage: hbone.StageHTTP2, Err: errors.New("no settings")}, true},
		{"no certificate of our own", &hbone.DialError{Stage: hbone.StageIdentity, Err: errors.New("CA is down")}, false},
		{"denied by policy", &hbone.StatusError{Status: 401}, false},
		{"the address is somebody else's now", &hbone.StatusError{Status: 400}, true},
		{"its application can't be reached", &hbone.StatusError{Status: 503}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := elsewhere(test.err); got != test.want {
				t.Errorf("another endpoint is tried: %v, want %v", got, test.want)
			}
		})
	}
}
