// Package intake puts what the control plane pushes into the tables of the mesh's state, and counts it.
package intake

import (
	"errors"
	"maps"

	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/xds"
)

// Apply puts a push into the store and returns what of it can't be used.
func Apply(store *state.Store, push xds.Push) map[string]error {
	var update state.Update
	rejected := map[string]error{}
	for resource := range push.Resources {
		if err := update.Add(push.TypeURL, resource.Name, resource.Body); err != nil {
			rejected[resource.Name] = err
		}
	}
	if err := update.Remove(push.TypeURL, push.Removed...); err != nil {
		rejected["removed"] = err
	}
	var partly state.Rejected
	if err := store.Apply(update); errors.As(err, &partly) {
		maps.Copy(rejected, partly)
	}
	return rejected
}

// Count counts what happened to the stream.
func Count(counts *telemetry.XDS, event xds.Event) {
	switch event.Kind {
	case xds.Pushed:
		counts.Received(event.TypeURL, event.Bytes)
	case xds.ConnectionError:
		counts.Terminated(telemetry.XDSConnectionError)
	case xds.Reconnect:
		counts.Terminated(telemetry.XDSReconnect)
	case xds.Complete:
		counts.Terminated(telemetry.XDSComplete)
	default:
		counts.Terminated(telemetry.XDSError)
	}
}
