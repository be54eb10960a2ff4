package inbound

import (
	"testing"

	"github.com/tulle-mesh/tulle/mesh/hbone"
)

func TestFailedTunnelsAreToldApart(t *testing.T) {
	for stage, want := range map[hbone.Stage]string{
		hbone.StageIdentity: "IDENTITY_ERROR",
		hbone.StageTLS:      "TLS_FAILURE",
		hbone.StageHTTP2:    "H2_HANDSHAKE_FAILURE",
	} {
		if got := failureFlag(stage); got != want {
			t.Errorf("%s: flag %s, want %s", stage, got, want)
		}
	}
}
