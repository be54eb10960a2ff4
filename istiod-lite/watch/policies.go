package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	istio "istio.io/api/security/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/folder"
)

// resource is an object of Istio's. Its own Go type isn't used since that skips unknown fields, and a misspelt one in a
// policy must not go unnoticed.
type resource[T any, P interface {
	*T
	proto.Message
}] struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              strict[T, P]    `json:"spec"`
	Status            json.RawMessage `json:"status"`
}

// strict reads a message and refuses fields that it doesn't have.
type strict[T any, P interface {
	*T
	proto.Message
}] struct{ message P }

// UnmarshalJSON reads the message. Its errors know their line.
func (s *strict[T, P]) UnmarshalJSON(data []byte) error {
	s.message = P(new(T))
	if err := protojson.Unmarshal(data, s.message); err != nil {
		return located(err)
	}
	return nil
}

// get returns the message, an empty one if the document has none.
func (s *strict[T, P]) get() P {
	if s.message == nil {
		return P(new(T))
	}
	return s.message
}

// lineError is an error of the protobuf library with its line as a number.
type lineError struct {
	reason string
	line   int
}

func (e *lineError) Error() string { return e.reason }

// JSONLine tells the line within the JSON text.
func (e *lineError) JSONLine() int { return e.line }

var protoLine = regexp.MustCompile(`\(line (\d+):\d+\): (.*)$`)

func located(err error) error {
	at := protoLine.FindStringSubmatch(err.Error())
	if at == nil {
		return err
	}
	line, _ := strconv.Atoi(at[1])
	return &lineError{reason: at[2], line: line}
}

func authorizationPolicy(document folder.Document) (model.Object, error) {
	var o resource[istio.AuthorizationPolicy, *istio.AuthorizationPolicy]
	if err := document.Decode(&o); err != nil {
		return nil, err
	}
	spec := o.Spec.get()
	p := &model.AuthorizationPolicy{
		Namespace: within(o.ObjectMeta), Name: o.Name,
		Selected: spec.Selector != nil, Selector: spec.Selector.GetMatchLabels(),
		Targeted: spec.TargetRef != nil || len(spec.TargetRefs) > 0,
		Action:   model.Action(spec.Action.String()),
		DryRun:   o.Annotations["istio.io/dry-run"] == "true",
	}
	if p.Selected && p.Targeted {
		return nil, document.At("spec.selector", errors.New("selector and targetRefs exclude each other"))
	}
	if err := selector(document, "spec.selector.matchLabels", p.Selector); err != nil {
		return nil, err
	}
	r := ruleReader{document: document, namespace: p.Namespace}
	for i, rule := range spec.Rules {
		read, err := r.rule(fmt.Sprintf("spec.rules[%d]", i), rule)
		if err != nil {
			return nil, err
		}
		p.Rules = append(p.Rules, read)
	}
	return p, nil
}

func peerAuthentication(document folder.Document) (model.Object, error) {
	var o resource[istio.PeerAuthentication, *istio.PeerAuthentication]
	if err := document.Decode(&o); err != nil {
		return nil, err
	}
	spec := o.Spec.get()
	p := &model.PeerAuthentication{
		Namespace: within(o.ObjectMeta), Name: o.Name, Created: o.CreationTimestamp.Time,
		// An empty selector is the same as none here, other than in an AuthorizationPolicy.
		Selected: len(spec.Selector.GetMatchLabels()) > 0, Selector: spec.Selector.GetMatchLabels(),
		Mode: mode(spec.Mtls),
	}
	if err := selector(document, "spec.selector.matchLabels", p.Selector); err != nil {
		return nil, err
	}
	if len(spec.PortLevelMtls) > 0 && !p.Selected {
		return nil, document.At("spec.portLevelMtls", errors.New("exceptions for ports need a selector"))
	}
	for number, mtls := range spec.PortLevelMtls {
		checked, err := port(document, "spec.portLevelMtls", int64(number))
		if err != nil {
			return nil, err
		}
		if p.Ports == nil {
			p.Ports = make(map[uint16]model.MTLS)
		}
		p.Ports[checked] = mode(mtls)
	}
	return p, nil
}

func mode(mtls *istio.PeerAuthentication_MutualTLS) model.MTLS {
	switch mtls.GetMode() {
	case istio.PeerAuthentication_MutualTLS_STRICT:
		return model.MTLSStrict
	case istio.PeerAuthentication_MutualTLS_PERMISSIVE, istio.PeerAuthentication_MutualTLS_DISABLE:
		return model.MTLSPermissive
	}
	return model.MTLSUnset
}

// prefixes parses addresses and ranges of addresses.
func prefixes(document folder.Document, path string, texts []string) ([]netip.Prefix, error) {
	var found []netip.Prefix
	for i, text := range texts {
		prefix, err := prefix(text)
		if err != nil {
			return nil, document.At(fmt.Sprintf("%s[%d]", path, i), fmt.Errorf("want an address or a range such as 10.0.0.0/8, have %q", text))
		}
		found = append(found, prefix)
	}
	return found, nil
}

func prefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	if addr.Zone() != "" {
		return netip.Prefix{}, errors.New("an address with a zone")
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// portNumbers parses ports.
func portNumbers(document folder.Document, path string, texts []string) ([]uint16, error) {
	var found []uint16
	for i, text := range texts {
		number, err := strconv.ParseUint(text, 10, 16)
		if err != nil || number == 0 {
			return nil, document.At(fmt.Sprintf("%s[%d]", path, i), fmt.Errorf("want a port within 1 to 65535, have %q", text))
		}
		found = append(found, uint16(number))
	}
	return found, nil
}
