package daemon

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// shownKinds are those of which configz shows the objects.
var shownKinds = []model.Kind{
	model.KindMeshConfig, model.KindNamespace, model.KindNode, model.KindPod, model.KindService, model.KindEndpointSlice,
	model.KindServiceEntry, model.KindWorkloadEntry, model.KindGateway, model.KindGatewayClass,
	model.KindAuthorizationPolicy, model.KindPeerAuthentication, model.KindRequestAuthentication,
	model.KindHTTPRoute, model.KindGRPCRoute, model.KindTLSRoute, model.KindTCPRoute, model.KindReferenceGrant,
	model.KindBackendTLSPolicy, model.KindCABundle,
}

// configz shows the objects as they were understood: all of them, or with ?kind=Pod&namespace=demo some.
func (d *Daemon) configz(w http.ResponseWriter, r *http.Request) {
	kind, namespace := model.Kind(r.URL.Query().Get("kind")), r.URL.Query().Get("namespace")
	if kind != "" && !slices.Contains(shownKinds, kind) {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": "kind is not known", "known": shownKinds})
		return
	}
	all := make(map[model.Kind][]model.Object)
	d.model.View(func() {
		for _, each := range shownKinds {
			if kind != "" && kind != each {
				continue
			}
			for object := range d.model.All(each) {
				if namespace == "" || object.Key().Namespace == namespace {
					all[each] = append(all[each], object)
				}
			}
		}
	})
	for _, objects := range all { // which don't change any more
		slices.SortFunc(objects, func(a, b model.Object) int { return cmp.Compare(a.Key().Name.String(), b.Key().Name.String()) })
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(all) // the reader may have gone
}
