package controlplane

import (
	"bufio"
	"encoding/json"
	"fmt"
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

// request is one to the API server.
type request struct {
	Verb string `json:"verb"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		APIGroup    string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	RequestURI     string `json:"requestURI"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

const accountPrefix = "system:serviceaccount:" + system + ":"

// requests are those of the replicas so far that have accounts of their own.
func (w *world) requests() []request {
	w.t.Helper()
	return slices.DeleteFunc(w.audit(), func(r request) bool { return !strings.HasPrefix(r.User.Username, accountPrefix+"istiod") })
}

// audit reads all requests so far.
func (w *world) audit() []request {
	w.t.Helper()
	file, err := os.Open(w.AuditLog())
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	var found []request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if json.Unmarshal(lines.Bytes(), &r) == nil { // the last line may not be whole yet
			found = append(found, r)
		}
	}
	if err := lines.Err(); err != nil {
		w.t.Fatal(err)
	}
	return found
}

// by is the replica that made the request.
func (r request) by() string { return strings.TrimPrefix(r.User.Username, accountPrefix) }

func (r request) resource() string {
	if r.ObjectRef.Subresource != "" {
		return r.ObjectRef.Resource + "/" + r.ObjectRef.Subresource
	}
	return r.ObjectRef.Resource
}

func (r request) String() string {
	return fmt.Sprintf("%s %s: %d", r.Verb, r.RequestURI, r.ResponseStatus.Code)
}

// family says what a request writes that only one replica may write; nothing for all others.
func (r request) family() string {
	switch {
	case r.Verb == "patch" && r.resource() == "serviceentries/status" && strings.Contains(r.RequestURI, "autoallocate"):
		return "addresses"
	case r.Verb == "patch" && (r.resource() == "gateways/status" || r.resource() == "gatewayclasses/status"):
		return "gateways" // by who deploys them
	case r.Verb == "patch" && r.ObjectRef.Subresource == "status":
		return "statuses"
	case r.Verb == "patch" && r.resource() == "configmaps":
		return "roots"
	case r.resource() == "events":
		return "events"
	case r.Verb == "update" && r.resource() == "validatingwebhookconfigurations":
		return "webhooks"
	}
	return ""
}

// writers are the replicas that have written something of a family.
func (w *world) writers(family string) []string {
	w.t.Helper()
	var found []string
	for _, r := range w.requests() {
		if r.family() == family && r.ResponseStatus.Code < http.StatusMultipleChoices {
			found = append(found, r.by())
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// forbidden are the requests that were refused for want of rights.
func (w *world) forbidden() []string {
	w.t.Helper()
	var found []string
	for _, r := range w.requests() {
		if r.ResponseStatus.Code == http.StatusForbidden {
			found = append(found, r.String())
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
