package describe

import (
	"errors"

	"github.com/tulle-mesh/tulle/mesh/hbone"
	"github.com/tulle-mesh/tulle/mesh/loop"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

// Flag tells metrics why a connection could not be made.
func Flag(err error) string {
	if errors.As(err, new(*mtls.RevokedError)) {
		return telemetry.FlagRevoked
	}
	var status *hbone.StatusError
	if errors.As(err, &status) {
		if status.Status == 401 {
			return telemetry.FlagDenied
		}
		return telemetry.FlagConnect
	}
	var dial *hbone.DialError
	if errors.As(err, &dial) {
		switch dial.Stage {
		case hbone.StageIdentity:
			return telemetry.FlagIdentity
		case hbone.StageTLS:
			return telemetry.FlagTLS
		case hbone.StageHTTP2:
			return telemetry.FlagHTTP2
		}
	}
	if errors.As(err, new(*loop.ConnectTimeout)) {
		return telemetry.FlagNetworkPolicy // nothing answered, which mostly means that somebody drops port 15008
	}
	return telemetry.FlagConnect
}
