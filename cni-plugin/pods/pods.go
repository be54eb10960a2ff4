// Package pods decides which pods belong in the mesh, and how they are captured, from what Kubernetes says of them. It is
// pure: where the objects come from, and what becomes of the decision, is for others.
package pods

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Labels are an object's labels or annotations.
type Labels map[string]string

// ID identifies a pod to the proxy.
type ID struct {
	UID, Namespace, Name, ServiceAccount string
}

// Key is the pod's name as people know it.
func (p ID) Key() string { return p.Namespace + "/" + p.Name }

// Pod is what counts of a pod's object.
type Pod struct {
	ID
	Labels, Annotations Labels
	Node                string       // that it is bound to
	Netns               string       // path of its network namespace, if the object says it
	IPs                 []netip.Addr // none before the pod runs
	HostNetwork         bool
	Ended               bool // has run to completion
}

// Set is everything that is known at a time.
type Set struct {
	Pods       []Pod
	Namespaces map[string]Labels // by name
}

// Labels and annotations that decide; the API's reference is istio.io/latest/docs/reference/config/labels and annotations.
const (
	modeLabel         = "istio.io/dataplane-mode"
	shortModeLabel    = "dataplane-mode"
	ambient           = "ambient"
	optedOut          = "none"
	sidecarAnnotation = "sidecar.istio.io/status"

	dnsAnnotation     = "ambient.istio.io/dns-capture"
	ingressAnnotation = "ambient.istio.io/bypass-inbound-capture"
	virtualAnnotation = "istio.io/reroute-virtual-interfaces"
)

// mode is the mode label's value; its full name wins.
func (l Labels) mode() string {
	if mode, ok := l[modeLabel]; ok {
		return mode
	}
	return l[shortModeLabel]
}

// Ambient tells that a namespace with these labels is in the mesh.
func (l Labels) Ambient() bool { return l.mode() == ambient }

// Decisive returns the few of an object's labels or annotations that Rules look at.
func (l Labels) Decisive() Labels {
	var kept Labels
	for _, name := range []string{modeLabel, shortModeLabel, appLabel, sidecarAnnotation, dnsAnnotation, ingressAnnotation, virtualAnnotation} {
		if value, ok := l[name]; ok {
			if kept == nil {
				kept = Labels{}
			}
			kept[name] = value
		}
	}
	return kept
}

const (
	appLabel = "app"
	proxyApp = "ztunnel"
)

// Rules are what an operator has decided for all pods.
type Rules struct {
	Excluded []string // namespaces that never are in the mesh
	System   string   // namespace of the tunnel proxy, whose own pods aren't either
	DNS      bool     // pods' DNS questions go to the proxy, unless the pod says otherwise
}

// Excludes tells that no pod of a namespace ever is in the mesh.
func (r Rules) Excludes(namespace string) bool { return slices.Contains(r.Excluded, namespace) }

// Capture is how a pod in the mesh is captured. It can be compared.
type Capture struct {
	DNS bool `json:"dns"`
	// Ingress leaves inbound connections alone: the pod wants to see its clients itself.
	Ingress bool `json:"bypassInbound,omitempty"`
	// Virtual are interfaces in the pod, sorted and with commas between them, whose arriving traffic is outbound: those of virtual
	// machines or of containers in the pod.
	Virtual string `json:"virtualInterfaces,omitempty"`
}

// Decision is what should become of a pod.
type Decision struct {
	In      bool
	Ended   bool   // so it's out, but hasn't left: what may still run in it stays in the mesh
	Why     string // in words
	Capture Capture
	Ignored string // what the pod asks for and doesn't get, in words; "" is nothing
}

// Decide decides on a pod in a namespace with these labels.
func (r Rules) Decide(pod Pod, namespace Labels) Decision {
	in, why := r.eligible(pod, namespace)
	if !in {
		return Decision{Ended: pod.Ended, Why: why}
	}
	d := Decision{In: true, Why: why, Capture: Capture{DNS: r.DNS}}
	var ignored []string
	for name, value := range map[string]*bool{dnsAnnotation: &d.Capture.DNS, ingressAnnotation: &d.Capture.Ingress} {
		if wrong := pod.Annotations.flag(name, value); wrong != "" {
			ignored = append(ignored, wrong)
		}
	}
	interfaces, wrong := interfaces(pod.Annotations[virtualAnnotation])
	d.Capture.Virtual = interfaces
	if wrong != "" {
		ignored = append(ignored, wrong)
	}
	slices.Sort(ignored)
	d.Ignored = strings.Join(ignored, "; ")
	return d
}

func (r Rules) eligible(pod Pod, namespace Labels) (bool, string) {
	_, sidecar := pod.Annotations[sidecarAnnotation]
	switch {
	case r.Excludes(pod.Namespace):
		return false, "namespace " + pod.Namespace + " is excluded"
	case pod.HostNetwork:
		return false, "it uses the host's network"
	case sidecar:
		return false, "it has a sidecar"
	case pod.Ended:
		return false, "it has ended"
	case pod.Namespace == r.System && pod.Labels[appLabel] == proxyApp:
		return false, "it is the tunnel proxy"
	case pod.Labels.mode() == ambient:
		return true, "label on the pod"
	case pod.Labels.mode() == optedOut:
		return false, "opted out by label on the pod"
	case !namespace.Ambient():
		return false, "neither pod nor namespace has the label " + modeLabel + "=" + ambient
	}
	return true, "label on the namespace"
}

// flag reads an annotation that is there into value, and says what is wrong with it.
func (l Labels) flag(name string, value *bool) (wrong string) {
	text, ok := l[name]
	if !ok {
		return ""
	}
	parsed, err := strconv.ParseBool(text)
	if err != nil {
		return name + " is " + strconv.QuoteToASCII(cut(text)) + ": want true or false"
	}
	*value = parsed
	return ""
}

const (
	maxInterfaces = 16
	maxInterface  = 15 // bytes of a name: IFNAMSIZ without its zero
)

// interfaces reads a list of interfaces' names. The kernel allows more in a name, but all engines must understand it.
func interfaces(text string) (names, wrong string) {
	var list []string
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		if len(name) > maxInterface || name == "lo" || !plainName.MatchString(name) {
			return "", virtualAnnotation + " has " + strconv.QuoteToASCII(cut(name)) + ": want names of interfaces with commas between them"
		}
		list = append(list, name)
	}
	slices.Sort(list)
	if list = slices.Compact(list); len(list) > maxInterfaces {
		return "", virtualAnnotation + " has " + strconv.Itoa(len(list)) + " interfaces, more than " + strconv.Itoa(maxInterfaces)
	}
	return strings.Join(list, ","), ""
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// cut keeps a text that is quoted from becoming a page.
func cut(text string) string {
	const most = 40
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
