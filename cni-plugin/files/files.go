// Package files follows the Pods and Namespaces in a folder of YAML, for nodes without Kubernetes.
package files

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/mesh/folder"
)

// netnsAnnotation says where a pod lives, unless the container runtime does.
const netnsAnnotation = "tulle.dev/netns"

// Follow hands on all objects of the folder, first as soon as every file can be read and then after every change, until
// the context ends, which isn't an error. It fails if the folder can't be watched.
func Follow(ctx context.Context, dir string, log *slog.Logger, apply func(pods.Set)) error {
	t := table{pods: make(map[string]pods.Pod), namespaces: make(map[string]pods.Labels)}
	return folder.Watch(ctx, dir, folder.Config[object]{
		Decode: decode,
		Apply: func(gone, came []object) {
			t.take(gone, came)
			apply(t.set())
		},
		Report: func(err error) { log.Error("folder of objects", "err", err) },
	})
}

// object is a Pod, or a Namespace with its labels.
type object struct {
	namespace string // of a Namespace, its name
	labels    pods.Labels
	pod       *pods.Pod
}

// table is what the folder says now.
type table struct {
	pods       map[string]pods.Pod    // by namespace and name
	namespaces map[string]pods.Labels // by name
}

func (t *table) take(gone, came []object) {
	for _, o := range gone {
		if o.pod != nil {
			delete(t.pods, o.pod.Key())
		} else {
			delete(t.namespaces, o.namespace)
		}
	}
	for _, o := range came {
		if o.pod != nil {
			t.pods[o.pod.Key()] = *o.pod
		} else {
			t.namespaces[o.namespace] = o.labels
		}
	}
}

func (t *table) set() pods.Set {
	s := pods.Set{Namespaces: maps.Clone(t.namespaces)}
	for _, key := range slices.Sorted(maps.Keys(t.pods)) {
		s.Pods = append(s.Pods, t.pods[key])
	}
	return s
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
		Phase  string     `json:"phase"`
		PodIP  netip.Addr `json:"podIP"`
		PodIPs []struct {
			IP netip.Addr `json:"ip"`
		} `json:"podIPs"`
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
	if d.Kind == "Namespace" {
		return object{namespace: d.Name, labels: m.Metadata.Labels}, true, nil
	}
	return object{pod: m.pod(d.Namespace, d.Name)}, true, nil
}

// pod makes the pod. Objects in files seldom have a uid; their name is as good.
func (m manifest) pod(namespace, name string) *pods.Pod {
	id := pods.ID{UID: m.Metadata.UID, Namespace: namespace, Name: name, ServiceAccount: m.Spec.ServiceAccount}
	if id.Namespace == "" {
		id.Namespace = "default"
	}
	if id.ServiceAccount == "" {
		id.ServiceAccount = "default"
	}
	if id.UID == "" {
		id.UID = id.Key()
	}
	p := &pods.Pod{
		ID: id, Labels: m.Metadata.Labels, Annotations: m.Metadata.Annotations, Node: m.Spec.NodeName,
		Netns: m.Metadata.Annotations[netnsAnnotation], HostNetwork: m.Spec.HostNetwork,
		Ended: m.Status.Phase == "Succeeded" || m.Status.Phase == "Failed",
	}
	for _, each := range m.Status.PodIPs {
		if each.IP.IsValid() {
			p.IPs = append(p.IPs, each.IP)
		}
	}
	if len(p.IPs) == 0 && m.Status.PodIP.IsValid() {
		p.IPs = []netip.Addr{m.Status.PodIP}
	}
	return p
}
