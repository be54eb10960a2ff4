package decode

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

func pod(o *corev1.Pod) (model.Object, error) {
	p := &model.Pod{
		Namespace: within(o.ObjectMeta), Name: o.Name, UID: string(o.UID), Labels: model.LabelsOf(o.Labels),
		Redirected: o.Annotations[redirectionAnnotation] == "enabled", Node: o.Spec.NodeName, ServiceAccount: o.Spec.ServiceAccountName, HostNetwork: o.Spec.HostNetwork,
		Ended: o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed,
		Ready: o.DeletionTimestamp == nil && ready(o.Status.Conditions),
	}
	if p.ServiceAccount == "" {
		p.ServiceAccount = "default" // as admission would set it
	}
	if owner := metav1.GetControllerOf(o); owner != nil {
		p.Owner = model.Owner{Kind: readable(owner.Kind), Name: readable(owner.Name)}
	}
	ips := o.Status.PodIPs
	if len(ips) == 0 && o.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: o.Status.PodIP}}
	}
	for i, ip := range ips {
		addr, err := address(fmt.Sprintf("status.podIPs[%d].ip", i), ip.IP)
		if err != nil {
			return nil, err
		}
		p.IPs = append(p.IPs, addr)
	}
	return p, namedPorts(&o.Spec, p)
}

func ready(conditions []corev1.PodCondition) bool {
	for _, condition := range conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// namedPorts collects the TCP ports that services can ask for by name: those of containers, and of init containers that
// keep running.
func namedPorts(spec *corev1.PodSpec, p *model.Pod) error {
	add := func(path string, c *corev1.Container) error {
		for i, each := range c.Ports {
			number, err := port(fmt.Sprintf("%s.ports[%d].containerPort", path, i), int64(each.ContainerPort))
			if err != nil {
				return err
			}
			if each.Name == "" || !isTCP(each.Protocol) {
				continue
			}
			if model.PortNamed(p.Ports, each.Name) == 0 {
				p.Ports = append(p.Ports, model.NamedPort{Name: each.Name, Port: number})
			}
		}
		return nil
	}
	for i := range spec.Containers {
		if err := add(fmt.Sprintf("spec.containers[%d]", i), &spec.Containers[i]); err != nil {
			return err
		}
	}
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if err := add(fmt.Sprintf("spec.initContainers[%d]", i), c); err != nil {
			return err
		}
	}
	return nil
}

func isTCP(protocol corev1.Protocol) bool { return protocol == "" || protocol == corev1.ProtocolTCP }

func service(o *corev1.Service) (model.Object, error) {
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, nil // a name for something outside of the mesh
	}
	s := &model.Service{
		Namespace: within(o.ObjectMeta), Name: o.Name, Generation: o.Generation, Created: o.CreationTimestamp.Time,
		Binding: binding(within(o.ObjectMeta), o.ObjectMeta), Selector: model.LabelsOf(o.Spec.Selector),
		TrafficDistribution: o.Annotations[distributionAnnotation],
		PublishNotReady:     o.Spec.PublishNotReadyAddresses,
	}
	if policy := o.Spec.InternalTrafficPolicy; policy != nil {
		s.NodeLocal = *policy == corev1.ServiceInternalTrafficPolicyLocal
	}
	if o.Spec.TrafficDistribution != nil && *o.Spec.TrafficDistribution != "" {
		s.TrafficDistribution = *o.Spec.TrafficDistribution
	}
	for _, family := range o.Spec.IPFamilies {
		s.IPFamilies = append(s.IPFamilies, string(family))
	}
	if err := selector("spec.selector", o.Spec.Selector); err != nil {
		return nil, err
	}
	if err := vips(&o.Spec, s); err != nil {
		return nil, err
	}
	return s, servicePorts(o.Spec.Ports, s)
}

// vips are the addresses in the cluster. That of a load balancer is none of them: what it does with a connection, such as ending TLS or saying by
// PROXY protocol who comes, can't be left out.
func vips(spec *corev1.ServiceSpec, s *model.Service) error {
	texts, path := spec.ClusterIPs, "spec.clusterIPs"
	if len(texts) == 0 && spec.ClusterIP != "" {
		texts, path = []string{spec.ClusterIP}, "spec.clusterIP"
	}
	for i, text := range texts {
		if text == corev1.ClusterIPNone {
			continue
		}
		if len(spec.ClusterIPs) > 0 {
			path = fmt.Sprintf("spec.clusterIPs[%d]", i)
		}
		addr, err := address(path, text)
		if err != nil {
			return err
		}
		s.VIPs = append(s.VIPs, addr)
	}
	return nil
}

func servicePorts(ports []corev1.ServicePort, s *model.Service) error {
	for i, each := range ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		number, err := port(path+".port", int64(each.Port))
		if err != nil {
			return err
		}
		if !isTCP(each.Protocol) {
			continue
		}
		p := model.ServicePort{Name: each.Name, Port: number, Target: number}
		switch target := each.TargetPort; {
		case target.Type == intstr.String:
			p.Target, p.TargetName = 0, target.StrVal
		case target.IntVal != 0:
			if p.Target, err = port(path+".targetPort", int64(target.IntVal)); err != nil {
				return err
			}
		}
		if each.AppProtocol != nil {
			p.AppProtocol = *each.AppProtocol
		}
		s.Ports = append(s.Ports, p)
	}
	return nil
}

func endpointSlice(o *discoveryv1.EndpointSlice) (model.Object, error) {
	if o.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil // names, which nothing resolves
	}
	s := &model.EndpointSlice{Namespace: within(o.ObjectMeta), Name: o.Name, Service: o.Labels[discoveryv1.LabelServiceName]}
	for i, each := range o.Ports {
		if each.Port == nil || each.Protocol != nil && !isTCP(*each.Protocol) {
			continue
		}
		number, err := port(fmt.Sprintf("ports[%d].port", i), int64(*each.Port))
		if err != nil {
			return nil, err
		}
		p := model.NamedPort{Port: number}
		if each.Name != nil {
			p.Name = *each.Name
		}
		s.Ports = append(s.Ports, p)
	}
	for i := range o.Endpoints {
		endpoint, err := endpoint(i, &o.Endpoints[i], s.Namespace)
		if err != nil {
			return nil, err
		}
		s.Endpoints = append(s.Endpoints, endpoint)
	}
	return s, nil
}

func endpoint(index int, o *discoveryv1.Endpoint, namespace string) (model.Endpoint, error) {
	// Kubernetes asks to take an unknown state for ready.
	e := model.Endpoint{Ready: o.Conditions.Ready == nil || *o.Conditions.Ready}
	if o.NodeName != nil {
		e.Node = readable(*o.NodeName)
	}
	if o.Zone != nil {
		e.Zone = readable(*o.Zone)
	}
	if target := o.TargetRef; target != nil && target.Kind == "Pod" {
		e.Pod, e.PodUID = model.Name{Namespace: target.Namespace, Name: target.Name}, string(target.UID)
		if e.Pod.Namespace == "" {
			e.Pod.Namespace = namespace
		}
	}
	for j, text := range o.Addresses {
		addr, err := address(fmt.Sprintf("endpoints[%d].addresses[%d]", index, j), text)
		if err != nil {
			return e, err
		}
		e.Addresses = append(e.Addresses, addr)
	}
	return e, nil
}
