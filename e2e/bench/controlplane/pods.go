package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// podName is as a Deployment's would be.
func podName(s size, pod int) string {
	return fmt.Sprintf("%s-7d4b9c6f5d-%05x", serviceName(s.service(pod)), pod)
}

// newPod is a pod as the API server has them of a Deployment: with all that nobody in a mesh cares about.
func newPod(s size, i int, version string) *corev1.Pod {
	service := serviceName(s.service(i))
	controlled := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: podName(s, i), Namespace: s.namespace(i),
			Labels: map[string]string{
				"app": service, "app.kubernetes.io/name": service, "app.kubernetes.io/instance": service + "-prod", "app.kubernetes.io/managed-by": "Helm",
				"version": version, "pod-template-hash": "7d4b9c6f5d", "team": s.namespace(i),
			},
			Annotations: map[string]string{
				"ambient.istio.io/redirection": "enabled", "prometheus.io/scrape": "true", "prometheus.io/port": "9102", "prometheus.io/path": "/metrics",
				"checksum/config": "8c9f2d6a1f0b6a8de2a3c1f07b0c1c3b6f0f4b2a2d7e5d4c3b2a19080706050",
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: service + "-7d4b9c6f5d", UID: "0b8f6a4e-7c0e-4d0f-9a3e-3f5b0e7a9c11", Controller: &controlled, BlockOwnerDeletion: &controlled}},
		},
		Spec: corev1.PodSpec{
			NodeName: nodeName(i % s.nodes), ServiceAccountName: service, RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{container("app", service), container("metrics", service)},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: service}}}},
				{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
}

func container(name, service string) corev1.Container {
	c := corev1.Container{
		Name: name, Image: "registry.example.com/shop/" + service + "/" + name + ":1.24.3", Args: []string{"--config=/etc/app/config.yaml", "--listen=:8080"},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		VolumeMounts:   []corev1.VolumeMount{{Name: "config", MountPath: "/etc/app", ReadOnly: true}, {Name: "cache", MountPath: "/var/cache"}},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 5},
	}
	if name == "app" {
		c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "grpc", ContainerPort: 9090}}
	}
	for i := range 8 {
		c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", i), Value: fmt.Sprintf("value-%d-of-%s", i, service)})
	}
	return c
}

// writer makes and changes what there is most of. It either asks the API server that is measured against, or does what another replica
// of it would do that was asked: the measured one then only tells those who watch, and leaves the machine to others.
type writer struct {
	size     size
	client   kubernetes.Interface
	registry *registry // nil to ask
	// what the API server makes of a service and a pod
	service *corev1.Service
	pod     *corev1.Pod
}

// newWriter asks for a service and a pod, to see what the API server stores, and removes them.
func newWriter(ctx context.Context, b *bench) (*writer, error) {
	w := &writer{size: b.size, client: b.server.Client()}
	if b.asks {
		return w, nil
	}
	const namespace = "default"
	pod, service := newPod(b.size, 0, "v0"), service(b.size, 0)
	pod.Namespace, service.Namespace = namespace, namespace
	services, pods := w.client.CoreV1().Services(namespace), w.client.CoreV1().Pods(namespace)
	var err error
	if w.service, err = services.Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if w.pod, err = pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	w.pod.Status = status(0, w.pod)
	if w.pod, err = pods.UpdateStatus(ctx, w.pod, metav1.UpdateOptions{}); err != nil {
		return nil, err
	}
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	if err := errors.Join(services.Delete(ctx, service.Name, now), pods.Delete(ctx, pod.Name, now)); err != nil {
		return nil, err
	}
	w.registry, err = openRegistry(b.server.Etcd())
	return w, err
}

func (w *writer) close() {
	if w.registry != nil {
		w.registry.close()
	}
}

// create makes a running pod. Asked for, its address comes with the second of two writes.
func (w *writer) create(ctx context.Context, i int, version string) error {
	if w.registry != nil {
		return w.put(ctx, i, version, true)
	}
	pod, err := w.client.CoreV1().Pods(w.size.namespace(i)).Create(ctx, newPod(w.size, i, version), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status = status(i, pod)
	_, err = w.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// put stores a pod as the API server would.
func (w *writer) put(ctx context.Context, i int, version string, ready bool) error {
	pod, fresh := w.pod.DeepCopy(), newPod(w.size, i, version)
	pod.ResourceVersion, pod.UID = "", types.UID(fmt.Sprintf("5b1f0c9e-4a3d-4c5b-8f6a-%012x", i))
	pod.Name, pod.Namespace, pod.Labels, pod.OwnerReferences = fresh.Name, fresh.Namespace, fresh.Labels, fresh.OwnerReferences
	pod.Spec.NodeName, pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount = fresh.Spec.NodeName, fresh.Spec.ServiceAccountName, fresh.Spec.ServiceAccountName
	pod.Spec.Volumes[0].ConfigMap.Name = fresh.Spec.Volumes[0].ConfigMap.Name
	for n, container := range fresh.Spec.Containers {
		pod.Spec.Containers[n].Image, pod.Spec.Containers[n].Env = container.Image, container.Env
	}
	pod.Status = status(i, pod)
	for n := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[n]; !ready && (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) {
			c.Status = corev1.ConditionFalse
		}
	}
	return w.registry.put(ctx, "pods", pod.Namespace, pod.Name, corev1.SchemeGroupVersion, pod)
}

// label gives a pod its version.
func (w *writer) label(ctx context.Context, i int, version string, ready bool) error {
	if w.registry != nil {
		return w.put(ctx, i, version, ready)
	}
	return w.patch(ctx, i, types.MergePatchType, map[string]any{"metadata": map[string]any{"labels": map[string]any{"version": version}}})
}

// turn makes a pod ready or unready.
func (w *writer) turn(ctx context.Context, i int, version string, ready bool) error {
	if w.registry != nil {
		return w.put(ctx, i, version, ready)
	}
	state := corev1.ConditionFalse
	if ready {
		state = corev1.ConditionTrue
	}
	conditions := []any{map[string]any{"type": "Ready", "status": state}, map[string]any{"type": "ContainersReady", "status": state}}
	return w.patch(ctx, i, types.StrategicMergePatchType, map[string]any{"status": map[string]any{"conditions": conditions}}, "status")
}

func (w *writer) patch(ctx context.Context, i int, kind types.PatchType, fields map[string]any, subresources ...string) error {
	text, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldValidation: metav1.FieldValidationIgnore}
	_, err = w.client.CoreV1().Pods(w.size.namespace(i)).Patch(ctx, podName(w.size, i), kind, text, options, subresources...)
	return err
}

func (w *writer) delete(ctx context.Context, i int) error {
	namespace, name := w.size.namespace(i), podName(w.size, i)
	if w.registry != nil {
		return w.registry.delete(ctx, "pods", namespace, name)
	}
	now := int64(0)
	return w.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now})
}

func status(i int, pod *corev1.Pod) corev1.PodStatus {
	now := metav1.NewTime(time.Now())
	st := corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: podIP(i), PodIPs: []corev1.PodIP{{IP: podIP(i)}}, HostIP: "10.0.0.17", HostIPs: []corev1.HostIP{{IP: "10.0.0.17"}},
		StartTime: &now, QOSClass: corev1.PodQOSBurstable,
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		st.Conditions = append(st.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		started := true
		st.ContainerStatuses = append(st.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: &started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
			ImageID:     "registry.example.com/shop@sha256:4b1c5e7d9f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4",
			ContainerID: "containerd://9f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c44b1c5e7d",
		})
	}
	return st
}

// createProxy makes the ztunnel pod of a node.
func (b *bench) createProxy(ctx context.Context, i int) error {
	pods := b.server.Client().CoreV1().Pods(system)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: proxyName(i), Namespace: system, Labels: map[string]string{"app": proxies}},
		Spec:       corev1.PodSpec{NodeName: nodeName(i), ServiceAccountName: proxies, HostNetwork: true, Containers: []corev1.Container{{Name: "istio-proxy", Image: "ztunnel"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.0.0.17", PodIPs: []corev1.PodIP{{IP: "10.0.0.17"}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	_, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

func proxyName(i int) string { return fmt.Sprintf("ztunnel-%05d", i) }
