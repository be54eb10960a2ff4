package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/folder"
	"github.com/tulle-mesh/tulle/mesh/status"
)

// decoder makes the model's objects of documents. It belongs to the goroutine of one folder.
type decoder struct {
	log     *slog.Logger
	ignored map[string]bool // kinds that were logged
}

// reader makes an object of a document; nil where the document is right but says nothing to the mesh.
type reader func(folder.Document) (model.Object, error)

// readers lists the kinds that the mesh is made of.
func readers() map[string]reader {
	return map[string]reader{
		"v1/Namespace":                      namespace,
		"v1/ServiceAccount":                 serviceAccount,
		"v1/Node":                           node,
		"v1/Pod":                            pod,
		"v1/Service":                        service,
		"discovery.k8s.io/v1/EndpointSlice": endpointSlice,
		"security.istio.io/v1/AuthorizationPolicy":      authorizationPolicy,
		"security.istio.io/v1/PeerAuthentication":       peerAuthentication,
		"security.istio.io/v1beta1/PeerAuthentication":  peerAuthentication,
		"security.istio.io/v1beta1/AuthorizationPolicy": authorizationPolicy,
	}
}

func (d *decoder) object(document folder.Document) (model.Object, bool, error) {
	kind := document.APIVersion + "/" + document.Kind
	read, known := readers()[kind]
	if !known {
		return nil, false, d.ignore(document, kind)
	}
	object, err := read(document)
	return object, err == nil && object != nil, err
}

// ignore logs a kind that isn't read, once. A version of a policy that isn't known is an error: it might deny something.
func (d *decoder) ignore(document folder.Document, kind string) error {
	if strings.HasPrefix(document.APIVersion, "security.istio.io/") &&
		(document.Kind == "AuthorizationPolicy" || document.Kind == "PeerAuthentication") {
		return document.At("apiVersion", fmt.Errorf("%s is not known: use security.istio.io/v1", document.APIVersion))
	}
	if !d.ignored[kind] {
		d.ignored[kind] = true
		level := slog.LevelInfo
		if group, _, named := strings.Cut(document.APIVersion, "/"); named && knownGroup(group) {
			level = slog.LevelWarn // misspelt, or something that is written in the belief that it is enforced
		}
		d.log.Log(context.Background(), level, "objects of this kind are ignored", "kind", kind, "first", fmt.Sprintf("%s:%d", document.File, document.Line))
	}
	return nil
}

// knownGroup tells whether kinds of the API group are read.
func knownGroup(group string) bool {
	for kind := range readers() {
		if strings.HasPrefix(kind, group+"/") {
			return true
		}
	}
	return false
}

func namespace(document folder.Document) (model.Object, error) {
	var o corev1.Namespace
	if err := document.Decode(&o); err != nil {
		return nil, err
	}
	return &model.Namespace{Name: o.Name, Labels: o.Labels, Annotations: o.Annotations}, nil
}

// serviceAccount only checks: an account takes effect through the pods that run as it.
func serviceAccount(document folder.Document) (model.Object, error) {
	return nil, document.Decode(new(corev1.ServiceAccount))
}

func node(document folder.Document) (model.Object, error) {
	var o corev1.Node
	if err := document.Decode(&o); err != nil {
		return nil, err
	}
	return &model.Node{Name: o.Name, Labels: o.Labels}, nil
}

// enrolment is a file of the status folder.
func enrolment(document folder.Document) (model.Object, bool, error) {
	var o status.File
	if err := document.Decode(&o); err != nil {
		return nil, false, err
	}
	if err := o.Check(); err != nil {
		return nil, false, document.At("", err)
	}
	base := filepath.Base(document.File)
	if o.Node != strings.TrimSuffix(base, filepath.Ext(base)) {
		return nil, false, document.At("node", fmt.Errorf("node %q must be named like the file", o.Node))
	}
	pods := make(map[model.Name]string, len(o.Pods))
	for key, pod := range o.Pods {
		if pod.State == status.Enabled {
			namespace, name, _ := strings.Cut(key, "/")
			pods[model.Name{Namespace: namespace, Name: name}] = pod.UID
		}
	}
	return &model.Enrolment{Node: o.Node, Pods: pods}, true, nil
}

// within is the object's namespace; kubectl applies to default where none is written.
func within(o metav1.ObjectMeta) string {
	if o.Namespace == "" {
		return metav1.NamespaceDefault
	}
	return o.Namespace
}

// address parses an IP address. IPv4 written as IPv6 becomes IPv4.
func address(document folder.Document, path, text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err == nil && addr.Zone() != "" {
		err = errors.New("an address with a zone")
	}
	if err != nil {
		return netip.Addr{}, document.At(path, fmt.Errorf("want an IP address, have %q: %w", text, err))
	}
	return addr.Unmap(), nil
}

// port checks the range of a port.
func port(document folder.Document, path string, number int64) (uint16, error) {
	if number < 1 || number > 65535 {
		return 0, document.At(path, fmt.Errorf("port %d is not within 1 to 65535", number))
	}
	return uint16(number), nil
}

// selector checks that labels can match at all.
func selector(document folder.Document, path string, labels map[string]string) error {
	for key, value := range labels {
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if len(problems) > 0 {
			return document.At(path, fmt.Errorf("label %s=%s can't be: %s", key, value, problems[0]))
		}
	}
	return nil
}
