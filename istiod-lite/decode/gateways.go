package decode

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

const gatewayGroup = "gateway.networking.k8s.io"

func gateways() []Kind {
	versions := []string{"v1", "v1beta1"}
	return []Kind{
		kind(Kind{Group: gatewayGroup, Kind: "Gateway", Versions: versions, Resource: "gateways", Model: model.KindGateway}, gateway),
		kind(Kind{Group: gatewayGroup, Kind: "GatewayClass", Versions: versions, Resource: "gatewayclasses", Model: model.KindGatewayClass}, gatewayClass),
	}
}

// What gateways are marked with.
const (
	waypointForLabel         = "istio.io/waypoint-for"
	networkLabel             = "topology.istio.io/network"
	inboundAnnotation        = "ambient.istio.io/waypoint-inbound-binding"
	serviceAccountAnnotation = "gateway.istio.io/service-account"
	nameAnnotation           = "gateway.istio.io/name-override"
	serviceTypeAnnotation    = "networking.istio.io/service-type"
	xfccAnnotation           = "ambient.istio.io/xfcc-include-client-identity"
)

// notCopied are annotations of a Gateway that mean nothing on the objects that are made for it.
var notCopied = []string{serviceAccountAnnotation, nameAnnotation, serviceTypeAnnotation, "gateway.istio.io/controller-version", corev1.LastAppliedConfigAnnotation}

func gateway(o *gatewayv1.Gateway) (model.Object, error) {
	g := &model.Gateway{
		Namespace: within(o.ObjectMeta), Name: o.Name, UID: string(o.UID), Generation: o.Generation,
		Class: string(o.Spec.GatewayClassName), Revision: o.Labels[model.RevisionLabel],
		ServiceAccount: o.Annotations[serviceAccountAnnotation], Objects: gatewayObjects(o),
		Deleted: o.DeletionTimestamp != nil,
	}
	if g.ServiceAccount == "" {
		g.ServiceAccount = g.Deployed().Name
	}
	if g.Class == "istio-remote" || g.Class == "istio-east-west" {
		g.Network = o.Labels[networkLabel]
	}
	var err error
	if g.For, err = trafficOf(o.ObjectMeta); err != nil {
		return nil, err
	}
	if g.Inbound, err = inboundOf(o.ObjectMeta); err != nil {
		return nil, err
	}
	if g.XFCC, err = xfccOf(o.ObjectMeta); err != nil {
		return nil, err
	}
	for i, each := range o.Spec.Addresses {
		if each.Value == "" {
			continue // to be chosen
		}
		address, err := gatewayAddress(each.Type, each.Value)
		if err != nil {
			return nil, at(fmt.Sprintf("spec.addresses[%d].value", i), err)
		}
		g.Wanted = append(g.Wanted, address)
	}
	// The status is somebody else's writing, so what can't be used of it is left out.
	for _, each := range o.Status.Addresses {
		if address, err := gatewayAddress(each.Type, each.Value); err == nil {
			g.Addresses = append(g.Addresses, address)
		}
	}
	for i := range o.Spec.Listeners {
		listener, err := listener(fmt.Sprintf("spec.listeners[%d]", i), &o.Spec.Listeners[i])
		if err != nil {
			return nil, err
		}
		g.Listeners = append(g.Listeners, listener)
	}
	return g, nil
}

// gatewayObjects reads what is said of a Gateway's objects. Without a word of that, they get its own labels and annotations.
func gatewayObjects(o *gatewayv1.Gateway) model.GatewayObjects {
	objects := model.GatewayObjects{
		Name: o.Annotations[nameAnnotation], ServiceType: o.Annotations[serviceTypeAnnotation],
		Labels: maps.Clone(o.Labels), Annotations: maps.Clone(o.Annotations),
	}
	if said := o.Spec.Infrastructure; said != nil {
		if said.Labels != nil {
			objects.Labels = texts(said.Labels)
		}
		if said.Annotations != nil {
			objects.Annotations = texts(said.Annotations)
		}
		if ref := said.ParametersRef; ref != nil {
			objects.Parameters = &model.ObjectRef{
				Group: string(ref.Group), Kind: string(ref.Kind), Name: model.Name{Namespace: within(o.ObjectMeta), Name: ref.Name},
			}
		}
	}
	for _, name := range notCopied {
		delete(objects.Annotations, name)
	}
	return objects
}

func texts[K, V ~string](m map[K]V) map[string]string {
	out := make(map[string]string, len(m))
	for key, value := range m {
		out[string(key)] = string(value)
	}
	return out
}

func gatewayClass(o *gatewayv1.GatewayClass) (model.Object, error) {
	class := &model.GatewayClass{Name: o.Name, Controller: string(o.Spec.ControllerName), Generation: o.Generation}
	var err error
	if class.For, err = trafficOf(o.ObjectMeta); err != nil {
		return nil, err
	}
	if class.Inbound, err = inboundOf(o.ObjectMeta); err != nil {
		return nil, err
	}
	if class.XFCC, err = xfccOf(o.ObjectMeta); err != nil {
		return nil, err
	}
	return class, nil
}

// trafficOf reads what a gateway, or all of a class, takes as a waypoint.
func trafficOf(o metav1.ObjectMeta) (model.Traffic, error) {
	traffic := model.Traffic(o.Labels[waypointForLabel])
	switch traffic {
	case "", model.ForService, model.ForWorkload, model.ForAll, model.ForNone:
		return traffic, nil
	}
	return "", at("metadata.labels["+waypointForLabel+"]", fmt.Errorf("want service, workload, all or none, have %q", traffic))
}

// inboundOf reads how a gateway, or all of a class, gets its traffic as a waypoint.
func inboundOf(o metav1.ObjectMeta) (*model.Inbound, error) {
	text, ok := o.Annotations[inboundAnnotation]
	if !ok {
		return nil, nil
	}
	protocol, number, withPort := strings.Cut(text, "/")
	inbound := &model.Inbound{PROXY: protocol == "PROXY"}
	err := errors.New("want NONE or PROXY, or one of them with a port as in PROXY/15088")
	if protocol != "PROXY" && protocol != "NONE" {
		return nil, at("metadata.annotations["+inboundAnnotation+"]", err)
	}
	if withPort {
		parsed, failure := strconv.ParseUint(number, 10, 16)
		if failure != nil || parsed == 0 {
			return nil, at("metadata.annotations["+inboundAnnotation+"]", err)
		}
		inbound.Port = uint16(parsed)
	}
	return inbound, nil
}

// xfccOf reads whether a gateway, or all of a class, tells servers who their client is.
func xfccOf(o metav1.ObjectMeta) (*bool, error) {
	text, ok := o.Annotations[xfccAnnotation]
	if !ok {
		return nil, nil
	}
	if text != "true" && text != "false" {
		return nil, at("metadata.annotations["+xfccAnnotation+"]", fmt.Errorf("want true or false, have %.100q", text))
	}
	return new(text == "true"), nil
}

func gatewayAddress(of *gatewayv1.AddressType, value string) (model.GatewayAddress, error) {
	if of != nil && *of == gatewayv1.HostnameAddressType {
		name, err := host(value, false)
		return model.GatewayAddress{Host: name}, err
	}
	ip, err := netip.ParseAddr(value)
	if err != nil || ip.Zone() != "" {
		return model.GatewayAddress{}, fmt.Errorf("want an IP address, have %.100q", value)
	}
	return model.GatewayAddress{IP: ip.Unmap()}, nil
}

func listener(path string, o *gatewayv1.Listener) (model.Listener, error) {
	l := model.Listener{Name: string(o.Name), Protocol: string(o.Protocol), From: model.FromSame}
	var err error
	if l.Port, err = port(path+".port", int64(o.Port)); err != nil {
		return l, err
	}
	if o.AllowedRoutes != nil {
		l.Kinds = routeKinds(o.AllowedRoutes.Kinds)
	}
	if o.AllowedRoutes == nil || o.AllowedRoutes.Namespaces == nil || o.AllowedRoutes.Namespaces.From == nil {
		return l, nil
	}
	l.From = model.From(*o.AllowedRoutes.Namespaces.From)
	path += ".allowedRoutes.namespaces"
	switch chosen := o.AllowedRoutes.Namespaces.Selector; l.From {
	case model.FromSelector:
		if chosen == nil {
			return l, at(path+".selector", errors.New("missing, though from is Selector"))
		}
		l.Namespaces, err = labelSelector(path+".selector", chosen)
	case model.FromAll, model.FromSame, "None":
	default:
		err = at(path+".from", fmt.Errorf("want All, Same or Selector, have %q", l.From))
	}
	return l, err
}

func routeKinds(list []gatewayv1.RouteGroupKind) []model.GroupKind {
	var kinds []model.GroupKind
	for _, each := range list {
		kind := model.GroupKind{Group: gatewayGroup, Kind: string(each.Kind)}
		if each.Group != nil {
			kind.Group = string(*each.Group)
		}
		kinds = append(kinds, kind)
	}
	return kinds
}

func labelSelector(path string, o *metav1.LabelSelector) (model.Selector, error) {
	s := model.Selector{Labels: model.LabelsOf(o.MatchLabels)}
	if err := selector(path+".matchLabels", o.MatchLabels); err != nil {
		return s, err
	}
	for i, each := range o.MatchExpressions {
		r, err := requirement(fmt.Sprintf("%s.matchExpressions[%d]", path, i), each.Key, string(each.Operator), each.Values)
		if err != nil {
			return s, err
		}
		s.Also = append(s.Also, r)
	}
	return s, nil
}

func requirement(path, key, operator string, values []string) (model.Requirement, error) {
	r := model.Requirement{Key: key, Op: model.Operator(operator), Values: values}
	switch r.Op {
	case model.In, model.NotIn:
		if len(values) == 0 {
			return r, at(path+".values", fmt.Errorf("missing, though operator is %s", operator))
		}
	case model.Exists, model.DoesNotExist:
		if len(values) > 0 {
			return r, at(path+".values", fmt.Errorf("operator %s has none", operator))
		}
	default:
		return r, at(path+".operator", fmt.Errorf("want In, NotIn, Exists or DoesNotExist, have %q", operator))
	}
	return r, selector(path+".key", map[string]string{key: ""})
}
