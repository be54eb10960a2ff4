package describe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/describe"
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
		if got := describe.Flag(test.err); got != test.want {
			t.Errorf("Flag(%v) = %s, want %s", test.err, got, test.want)
		}
	}
}
