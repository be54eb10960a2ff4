package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// size is what there is in a cluster of so many pods.
type size struct{ pods, services, policies, namespaces, nodes int }

func sizeOf(pods, clients int) size {
	return size{pods: pods, services: pods / 10, policies: pods / 20, namespaces: max(10, pods/500), nodes: max(clients, pods/100)}
}

const (
	system  = "istio-system"
	proxies = "ztunnel"
)

func (s size) namespace(pod int) string { return fmt.Sprintf("team-%03d", s.service(pod)%s.namespaces) }
func (s size) service(pod int) int      { return pod % s.services }
func nodeName(node int) string {
	return fmt.Sprintf("ip-10-%d-%d-17.eu-central-1.compute.internal", node/250, node%250)
}
func serviceName(service int) string { return fmt.Sprintf("service-%05d", service) }

// podIP is the address of a pod; there are more than a million.
func podIP(pod int) string { return fmt.Sprintf("10.%d.%d.%d", 100+pod>>16&63, pod>>8&255, pod&255) }

// fill makes everything in the cluster.
func (b *bench) fill(ctx context.Context) error {
	s, client := b.size, b.server.Client()
	var err error
	if b.writer, err = newWriter(ctx, b); err != nil {
		return err
	}
	for _, step := range []struct {
		name  string
		count int
		make  func(context.Context, int) error
	}{
		{"namespaces", s.namespaces, func(ctx context.Context, i int) error {
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace(i), Labels: map[string]string{"istio.io/dataplane-mode": "ambient"}}}
			_, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
			return err
		}},
		{"nodes", s.nodes, func(ctx context.Context, i int) error {
			_, err := client.CoreV1().Nodes().Create(ctx, node(i), metav1.CreateOptions{})
			return err
		}},
		{"services", s.services, b.writer.createService},
		{"policies", s.policies, b.createPolicy},
		{"proxies", b.clients, b.createProxy},
		{"pods", s.pods, func(ctx context.Context, i int) error { return b.writer.create(ctx, i, "v0") }},
	} {
		say("  %d %s", step.count, step.name)
		if err := inParallel(ctx, step.count, step.make); err != nil {
			return fmt.Errorf("create %s: %w", step.name, err)
		}
	}
	return nil
}

// inParallel makes many things a few dozen at a time.
func inParallel(ctx context.Context, count int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for range 48 {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(count) && ctx.Err() == nil; i = next.Add(1) - 1 {
				if err := do(ctx, int(i)); err != nil {
					cancel(fmt.Errorf("number %d: %w", i, err))
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

func node(i int) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
		"topology.kubernetes.io/region": "eu-central-1", "topology.kubernetes.io/zone": fmt.Sprintf("eu-central-1%c", 'a'+i%3),
		"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": "m6i.4xlarge",
	}}}
}

// createService makes a service, the account of its pods, and the endpoint slice that a controller would.
func (w *writer) createService(ctx context.Context, i int) error {
	account, service, slice := account(w.size, i), service(w.size, i), slice(w.size, i)
	if w.registry != nil {
		return w.putService(ctx, i, account, service, slice)
	}
	if _, err := w.client.CoreV1().ServiceAccounts(account.Namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := w.client.CoreV1().Services(service.Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := w.client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{})
	return err
}

// putService stores the same as the API server would, and that the service's address is taken.
func (w *writer) putService(ctx context.Context, i int, account *corev1.ServiceAccount, service *corev1.Service, slice *discoveryv1.EndpointSlice) error {
	made := w.service.DeepCopy()
	made.ResourceVersion, made.Name, made.Namespace, made.Labels, made.Spec.Selector = "", service.Name, service.Namespace, service.Labels, service.Spec.Selector
	made.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", 1+i>>8, i&255)
	made.Spec.ClusterIPs = []string{made.Spec.ClusterIP}
	taken := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: made.Spec.ClusterIP, Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: "ipallocator.k8s.io",
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: made.Namespace, Name: made.Name}},
	}
	for _, object := range []metav1.Object{taken, account, made, slice} {
		object.SetUID(types.UID(fmt.Sprintf("2c7e1d40-9b3f-4f0a-a5c2-%012x", i)))
		object.SetCreationTimestamp(metav1.NewTime(time.Now()))
	}
	core := corev1.SchemeGroupVersion
	return errors.Join(
		w.registry.put(ctx, "ipaddresses", "", taken.Name, networkingv1.SchemeGroupVersion, taken),
		w.registry.put(ctx, "serviceaccounts", account.Namespace, account.Name, core, account),
		w.registry.put(ctx, "services/specs", made.Namespace, made.Name, core, made),
		w.registry.put(ctx, "endpointslices", slice.Namespace, slice.Name, discoveryv1.SchemeGroupVersion, slice),
	)
}

func serviceLabels(service int) map[string]string {
	return map[string]string{"app": serviceName(service), "app.kubernetes.io/name": serviceName(service)}
}

func account(s size, i int) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: serviceName(i), Namespace: s.namespace(i)}}
}

func service(s size, i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(i), Namespace: s.namespace(i), Labels: serviceLabels(i)},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": serviceName(i)}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}, {Name: "grpc", Port: 9090, TargetPort: intstr.FromInt32(9090)},
		}},
	}
}

func slice(s size, service int) *discoveryv1.EndpointSlice {
	name, namespace := serviceName(service), s.namespace(service)
	all := map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}
	for key, value := range serviceLabels(service) {
		all[key] = value
	}
	yes, http, grpc, httpPort, grpcPort, tcp := true, "http", "grpc", int32(8080), int32(9090), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-x7k2p", Namespace: namespace, Labels: all},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &http, Port: &httpPort, Protocol: &tcp}, {Name: &grpc, Port: &grpcPort, Protocol: &tcp}},
	}
	for pod := service; pod < s.pods; pod += s.services {
		on := nodeName(pod % s.nodes)
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{podIP(pod)}, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}, NodeName: &on,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: podName(s, pod)},
		})
	}
	return slice
}

var authorizationPolicies = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}

// createPolicy makes a policy for the pods of a service: who may call which port.
func (b *bench) createPolicy(ctx context.Context, i int) error {
	name, namespace := serviceName(i), b.size.namespace(i)
	policy := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
		"metadata": map[string]any{"name": "allow-" + name, "namespace": namespace},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"app": name}},
			"action":   "ALLOW",
			"rules": []any{map[string]any{
				"from": []any{map[string]any{"source": map[string]any{"principals": []any{
					"cluster.local/ns/" + namespace + "/sa/" + serviceName(i+1), "cluster.local/ns/" + namespace + "/sa/" + serviceName(i+2),
				}}}},
				"to": []any{map[string]any{"operation": map[string]any{"ports": []any{"8080", "9090"}}}},
			}},
		},
	}}
	_, err := b.server.Dynamic().Resource(authorizationPolicies).Namespace(namespace).Create(ctx, policy, metav1.CreateOptions{})
	return err
}
