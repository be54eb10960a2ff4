package inbound

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/mtls"
)

func TestFailedTunnelsAreToldApart(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		stage hbone.Stage
		err   error
		want  string
	}{
		{hbone.StageIdentity, broken, "IDENTITY_ERROR"},
		{hbone.StageTLS, broken, "TLS_FAILURE"},
		{hbone.StageTLS, fmt.Errorf("TLS handshake: %w", &mtls.RevokedError{}), "CERT_REVOKED"},
		{hbone.StageHTTP2, broken, "H2_HANDSHAKE_FAILURE"},
	} {
		if got := failureFlag(hbone.Failure{Stage: test.stage, Err: test.err}); got != test.want {
			t.Errorf("%s, %v: flag %s, want %s", test.stage, test.err, got, test.want)
		}
	}
}
