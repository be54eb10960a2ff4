package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
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
		{"services", s.services, func(ctx context.Context, i int) error { return createService(ctx, client, s, i) }},
		{"policies", s.policies, b.createPolicy},
		{"proxies", b.clients, b.createProxy},
	} {
		say("  %d %s", step.count, step.name)
		if err := inParallel(ctx, step.count, step.make); err != nil {
			return fmt.Errorf("create %s: %w", step.name, err)
		}
	}
	return b.fillPods(ctx)
}

func (b *bench) fillPods(ctx context.Context) (err error) {
	say("  %d pods", b.size.pods)
	if b.writer, err = newWriter(ctx, b); err != nil {
		return fmt.Errorf("create the first pod: %w", err)
	}
	err = inParallel(ctx, b.size.pods-1, func(ctx context.Context, i int) error { return b.writer.create(ctx, i+1, "v0") })
	if err != nil {
		return fmt.Errorf("create pods: %w", err)
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
func createService(ctx context.Context, client kubernetes.Interface, s size, i int) error {
	name, namespace := serviceName(i), s.namespace(i)
	labels := map[string]string{"app": name, "app.kubernetes.io/name": name}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		return err
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}, {Name: "grpc", Port: 9090, TargetPort: intstr.FromInt32(9090)},
		}},
	}
	if _, err := client.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(s, i, labels), metav1.CreateOptions{})
	return err
}

func slice(s size, service int, labels map[string]string) *discoveryv1.EndpointSlice {
	name, namespace := serviceName(service), s.namespace(service)
	all := map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}
	for key, value := range labels {
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
