package agent

import (
	"encoding/json"

	"github.com/tulle-mesh/tulle/mesh/folder"
)

// Labels and annotations that decide.
const (
	modeLabel         = "istio.io/dataplane-mode"
	shortModeLabel    = "dataplane-mode"
	ambient           = "ambient"
	optedOut          = "none"
	sidecarAnnotation = "sidecar.istio.io/status"
	netnsAnnotation   = "tulle.dev/netns"

	excludedNamespace = "kube-system"
	systemNamespace   = "istio-system"
)

type labels map[string]string

// mode is the mode label's value; its full name wins.
func (l labels) mode() string {
	if mode, ok := l[modeLabel]; ok {
		return mode
	}
	return l[shortModeLabel]
}

// object is a Pod or Namespace, as far as the agent is concerned.
type object struct {
	kind, namespace, name string
	uid                   string
	labels                labels

	// Pods only.
	node, account, netns string
	hostNetwork, sidecar bool
	ended                bool // has run to completion
}

// pod makes the pod's identity. Objects in files seldom have a uid; their name is as good.
func (o object) pod() Pod {
	uid := o.uid
	if uid == "" {
		uid = o.namespace + "/" + o.name
	}
	return Pod{UID: uid, Namespace: o.namespace, Name: o.name, ServiceAccount: o.account}
}

// eligible tells whether a pod should be in the mesh, and why in words.
func eligible(pod object, namespace labels) (bool, string) {
	switch {
	case pod.namespace == excludedNamespace:
		return false, "namespace " + excludedNamespace + " is excluded"
	case pod.hostNetwork:
		return false, "it uses the host's network"
	case pod.sidecar:
		return false, "it has a sidecar"
	case pod.ended:
		return false, "it has ended"
	case pod.labels.mode() == ambient:
		return true, "label on the pod"
	case pod.labels.mode() == optedOut:
		return false, "opted out by label on the pod"
	case namespace.mode() != ambient:
		return false, "neither pod nor namespace has the label " + modeLabel + "=" + ambient
	case pod.namespace == systemNamespace && pod.labels["app"] == "ztunnel":
		return false, "it is the tunnel proxy"
	}
	return true, "label on the namespace"
}

// manifest reads what the agent needs of an object and passes over the rest, which is other programs' to check.
type manifest struct{ fields }

type fields struct {
	Metadata struct {
		UID         string            `json:"uid"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		NodeName       string `json:"nodeName"`
		HostNetwork    bool   `json:"hostNetwork"`
		ServiceAccount string `json:"serviceAccountName"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

// UnmarshalJSON accepts fields that aren't listed.
func (m *manifest) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &m.fields) }

// decode reads Pods and Namespaces.
func decode(d folder.Document) (object, bool, error) {
	if d.APIVersion != "v1" || d.Kind != "Pod" && d.Kind != "Namespace" {
		return object{}, false, nil
	}
	var m manifest
	if err := d.Decode(&m); err != nil {
		return object{}, false, err
	}
	namespace := d.Namespace
	if namespace == "" && d.Kind == "Pod" {
		namespace = "default"
	}
	account := m.Spec.ServiceAccount
	if account == "" {
		account = "default"
	}
	_, sidecar := m.Metadata.Annotations[sidecarAnnotation]
	return object{
		kind: d.Kind, namespace: namespace, name: d.Name, uid: m.Metadata.UID, labels: m.Metadata.Labels,
		node: m.Spec.NodeName, account: account, netns: m.Metadata.Annotations[netnsAnnotation],
		hostNetwork: m.Spec.HostNetwork, sidecar: sidecar,
		ended: m.Status.Phase == "Succeeded" || m.Status.Phase == "Failed",
	}, true, nil
}
