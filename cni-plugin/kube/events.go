package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
)

// component is who writes.
const component = "tulle-cni-agent"

// Events writes events about pods. Equal ones are counted, and many are held back, by the library.
type Events struct {
	client      *Client
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

// NewEvents makes Events, which are written until they are closed.
func (c *Client) NewEvents() *Events {
	e := &Events{client: c, broadcaster: record.NewBroadcaster()}
	e.broadcaster.StartRecordingToSink(sink{c.core})
	e.recorder = e.broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: component, Host: c.node})
	return e
}

// Close stops writing. What is on its way is given up.
func (e *Events) Close() { e.broadcaster.Shutdown() }

// Warn says something about a pod. It doesn't wait.
func (e *Events) Warn(pod pods.ID, reason, message string) {
	about := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: e.client.published.get(pod.UID).object,
	}
	e.recorder.Event(about, corev1.EventTypeWarning, reason, message)
}

// sink writes events for the library.
type sink struct{ core *rest.RESTClient }

func (s sink) Create(event *corev1.Event) (*corev1.Event, error) {
	return answered(s.core.Post().Namespace(event.Namespace).Resource("events").Body(event))
}

func (s sink) Update(event *corev1.Event) (*corev1.Event, error) {
	return answered(s.core.Put().Namespace(event.Namespace).Resource("events").Name(event.Name).Body(event))
}

func (s sink) Patch(event *corev1.Event, patch []byte) (*corev1.Event, error) {
	return answered(s.core.Patch(types.StrategicMergePatchType).Namespace(event.Namespace).Resource("events").Name(event.Name).
		VersionedParams(&metav1.PatchOptions{}, metav1.ParameterCodec).Body(patch))
}

func answered(request *rest.Request) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestDeadline)
	defer cancel()
	event := new(corev1.Event)
	return event, request.Do(ctx).Into(event)
}
