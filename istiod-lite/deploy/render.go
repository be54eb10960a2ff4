package deploy

import (
	_ "embed"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// Settings are what the control plane says of every waypoint.
type Settings struct {
	// Image is the program's, PullPolicy and PullSecrets how a node gets it; empty leaves it to Kubernetes.
	Image, PullPolicy string
	PullSecrets       []string
	// CRL has waypoints heed the revocation lists of the ConfigMap istio-ca-crl.
	CRL bool
	// Domain ends the host names of services.
	Domain, ClusterID string
	// Revision is the control plane's, empty for the default one, and Namespace its own.
	Revision, Namespace string
}

// The labels by which objects are known to be made for a Gateway; they are Istio's, so that its objects are taken over.
const (
	classLabel = "gateway.networking.k8s.io/gateway-class-name"
	managed    = "istio.io-mesh-controller"
)

//go:embed waypoint.yaml
var template string

// refusal is why a Gateway can't be deployed as it is, in the Gateway API's words.
type refusal struct {
	reason, message string
	// again says that it may be otherwise later, though the Gateway stays as it is.
	again bool
}

func (r *refusal) Error() string { return r.message }

func refuse(reason, format string, args ...any) error {
	return &refusal{reason: reason, message: fmt.Sprintf(format, args...)}
}

// render makes the objects of a waypoint, changed by each of the overlays. Its error is a *refusal.
func (s Settings) render(w *Waypoint, overlays []Overlay) ([]*unstructured.Unstructured, error) {
	if err := check(w); err != nil {
		return nil, err
	}
	asked, err := askedFor(overlays)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for i, text := range strings.Split(template, "\n---\n") {
		k := &kinds[i]
		if k.asked && !asked[k.key] {
			continue
		}
		o := s.object(w, text)
		for _, overlay := range overlays {
			if o, err = overlay.apply(k, o); err != nil {
				return nil, err
			}
		}
		objects = append(objects, owned(w.Gateway, o))
	}
	return objects, nil
}

// check refuses what Kubernetes has no names for.
func check(w *Waypoint) error {
	g := w.Gateway
	name := g.Deployed().Name
	if len(g.Name) > validation.LabelValueMaxLength {
		return refuse(invalid, "the name has %d letters, and labels have room for %d: use a shorter one", len(g.Name), validation.LabelValueMaxLength)
	}
	if len(validation.IsDNS1035Label(name)) > 0 {
		return refuse(invalid, "%.253q can't be the name of a Service: name the objects by annotation gateway.istio.io/name-override, with at most 63 lower-case letters, digits and dashes, first a letter", name)
	}
	if len(validation.IsDNS1123Subdomain(g.ServiceAccount)) > 0 {
		return refuse(invalid, "%.253q can't be the name of a ServiceAccount: change annotation gateway.istio.io/service-account", g.ServiceAccount)
	}
	switch g.Objects.ServiceType {
	case "", "ClusterIP", "NodePort", "LoadBalancer":
	default:
		return refuse(invalid, "annotation networking.istio.io/service-type: want ClusterIP, NodePort or LoadBalancer, have %.100q", g.Objects.ServiceType)
	}
	if w.first() < 0 {
		return refuse(invalidListeners, "no listener takes the mesh's traffic: add one with protocol HBONE and port %d", model.HBONEPort)
	}
	return nil
}

// object makes one object of its text.
func (s Settings) object(w *Waypoint, text string) map[string]any {
	var o map[string]any
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		panic(err) // it is ours
	}
	o, _ = fill(o, s.values(w)).(map[string]any)
	said := w.Gateway.Objects
	ours := map[string]string{model.GatewayNameLabel: w.Gateway.Name, classLabel: w.Gateway.Class, model.ManagedLabel: managed}
	mark(o, said, ours)
	switch o["kind"] {
	case "Deployment":
		pod := o["spec"].(map[string]any)["template"].(map[string]any)
		mark(pod, said, ours)
		spec := pod["spec"].(map[string]any)
		s.pullSecrets(spec)
		if s.CRL {
			heedCRL(spec)
		}
		if s.PullPolicy != "" {
			spec["containers"].([]any)[0].(map[string]any)["imagePullPolicy"] = s.PullPolicy
		}
	case "Service":
		spec := o["spec"].(map[string]any)
		mesh := w.Gateway.Listeners[w.first()]
		spec["ports"] = append(spec["ports"].([]any), map[string]any{
			"name": portName(mesh), "port": float64(mesh.Port), "protocol": "TCP", "appProtocol": "hbone",
		})
	}
	return o
}

func (s Settings) pullSecrets(into map[string]any) {
	var list []any
	for _, name := range s.PullSecrets {
		list = append(list, map[string]any{"name": name})
	}
	if list != nil {
		into["imagePullSecrets"] = list
	}
}

// heedCRL gives a pod the revocation lists, as the chart of ztunnel does.
func heedCRL(spec map[string]any) {
	const folder = "/var/run/secrets/istio-crl"
	container := spec["containers"].([]any)[0].(map[string]any)
	for _, add := range []struct {
		to    map[string]any
		field string
		value map[string]any
	}{
		{container, "env", map[string]any{"name": "CRL_PATH", "value": folder + "/ca-crl.pem"}},
		{container, "volumeMounts", map[string]any{"name": "istio-ca-crl", "mountPath": folder, "readOnly": true}},
		{spec, "volumes", map[string]any{"name": "istio-ca-crl", "configMap": map[string]any{"name": "istio-ca-crl", "optional": true}}},
	} {
		add.to[add.field] = append(add.to[add.field].([]any), add.value)
	}
}

// portName is the listener's name, if a port of a Service can have it.
func portName(l model.Listener) string {
	if len(validation.IsDNS1123Label(l.Name)) > 0 || l.Name == "status-port" {
		return "hbone"
	}
	return l.Name
}

// mark puts labels and annotations on an object, or a pod. Labels that mean something to the mesh go before the user's,
// whose annotations go before ours.
func mark(o map[string]any, said model.GatewayObjects, ours map[string]string) {
	metadata, _ := o["metadata"].(map[string]any)
	labels, annotations := make(map[string]any), make(map[string]any)
	put := func(into map[string]any, from map[string]string) {
		for key, value := range from {
			into[key] = value
		}
	}
	put(labels, said.Labels)
	if own, ok := metadata["labels"].(map[string]any); ok {
		maps.Copy(labels, own)
	}
	put(labels, ours)
	if own, ok := metadata["annotations"].(map[string]any); ok {
		maps.Copy(annotations, own)
	}
	put(annotations, said.Annotations)
	metadata["labels"] = labels
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
}

// owned makes the object go with its Gateway.
func owned(g *model.Gateway, o map[string]any) *unstructured.Unstructured {
	made := &unstructured.Unstructured{Object: o}
	made.SetNamespace(g.Namespace)
	// The owner's deletion isn't held up by the object: that would take the right to change finalizers of Gateways.
	metadata := o["metadata"].(map[string]any)
	metadata["ownerReferences"] = []any{map[string]any{
		"apiVersion": model.RouteGroup + "/v1", "kind": "Gateway", "name": g.Name, "uid": g.UID, "controller": true,
	}}
	return made
}

// values are the words of the template.
func (s Settings) values(w *Waypoint) map[string]string {
	g := w.Gateway
	plane, revision := "istiod", s.Revision
	if revision == "" {
		revision = "default"
	} else {
		plane += "-" + revision
	}
	serviceType := g.Objects.ServiceType
	if serviceType == "" {
		serviceType = "ClusterIP"
	}
	return map[string]string{
		"gateway": g.Name, "class": g.Class, "name": g.Deployed().Name, "namespace": g.Namespace, "account": g.ServiceAccount,
		"image": s.Image, "domain": s.Domain, "cluster": s.ClusterID, "revision": revision,
		"controlplane": plane + "." + s.Namespace + ".svc:15012", "trustdomain": w.TrustDomain, "network": w.Network,
		"servicetype": serviceType, "xfcc": strconv.FormatBool(w.XFCC),
	}
}

// fill replaces the words in every text of a tree. It works on what was read of the template, so that no value can be taken
// for more than a text.
func fill(tree any, values map[string]string) any {
	switch t := tree.(type) {
	case map[string]any:
		for key, value := range t {
			t[key] = fill(value, values)
		}
	case []any:
		for i, value := range t {
			t[i] = fill(value, values)
		}
	case string:
		return expand(t, values)
	}
	return tree
}

func expand(text string, values map[string]string) string {
	if !strings.Contains(text, "${") {
		return text // $(NAME) is Kubernetes'
	}
	return os.Expand(text, func(word string) string { return values[word] })
}
