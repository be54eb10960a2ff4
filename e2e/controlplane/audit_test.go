package controlplane

import (
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
)

// manifest holds the rights of the control plane.
const manifest = "../../deploy/rbac/istiod-lite.yaml"

// accounts gives the rights to all accounts of the control plane's namespace: a replica has one of its own where the audit log
// should tell replicas apart.
const accounts = `---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: replicas}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: istiod-lite-istio-system}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts:istio-system"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: replicas, namespace: istio-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: istiod-lite}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts:istio-system"}]
`

// authorize gives the control plane its rights.
func (w *world) authorize() {
	w.t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		w.t.Fatal(err)
	}
	w.apply(string(text))
}

// replica starts a control plane with an account of its own and no more rights than it needs.
func (w *world) replica(name string, args ...string) *replica {
	w.t.Helper()
	w.apply(account(system, name) + accounts)
	return w.start(replicaSpec{Name: name, User: apiserver.User{Namespace: system, Account: name}, Args: args}).ready()
}

var accountPrefix = apiserver.AccountPrefix(system)

// requests are those of the replicas so far that have accounts of their own.
func (w *world) requests() []apiserver.Request {
	w.t.Helper()
	return apiserver.By(accountPrefix+"istiod", w.audit())
}

// audit reads all requests so far.
func (w *world) audit() []apiserver.Request {
	w.t.Helper()
	all, err := w.Requests()
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// by is the replica that made the request.
func by(r apiserver.Request) string { return strings.TrimPrefix(r.User.Username, accountPrefix) }

// family says what a request writes that only one replica may write; nothing for all others.
func family(r apiserver.Request) string {
	switch {
	case r.Verb == "patch" && r.Kind() == "serviceentries/status" && strings.Contains(r.RequestURI, "autoallocate"):
		return "addresses"
	case r.Verb == "patch" && (r.Kind() == "gateways/status" || r.Kind() == "gatewayclasses/status"):
		return "gateways" // by who deploys them
	case r.Verb == "patch" && r.ObjectRef.Subresource == "status":
		return "statuses"
	case r.Verb == "patch" && r.Kind() == "configmaps":
		return "roots"
	case r.Kind() == "events":
		return "events"
	case r.Verb == "update" && r.Kind() == "validatingwebhookconfigurations":
		return "webhooks"
	}
	return ""
}

// writers are the replicas that have written something of a family.
func (w *world) writers(of string) []string {
	w.t.Helper()
	var found []string
	for _, r := range w.requests() {
		if family(r) == of && r.ResponseStatus.Code < http.StatusMultipleChoices {
			found = append(found, by(r))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// forbidden are the requests that were refused for want of rights.
func (w *world) forbidden() []string {
	w.t.Helper()
	return apiserver.Forbidden(w.requests())
}
