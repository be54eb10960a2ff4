package lead

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// record says who leads. An empty one says that nobody does.
type record struct {
	Holder      string    `json:"holderIdentity"`
	Seconds     int       `json:"leaseDurationSeconds"`
	Acquired    time.Time `json:"acquireTime"`
	Renewed     time.Time `json:"renewTime"`
	Transitions int       `json:"leaderTransitions"`
}

func (r record) equal(other record) bool {
	return r.Holder == other.Holder && r.Seconds == other.Seconds && r.Transitions == other.Transitions &&
		r.Acquired.Equal(other.Acquired) && r.Renewed.Equal(other.Renewed)
}

// lock is where a record is kept. write fails if another was written since the last read or write.
type lock struct {
	read  func(context.Context) (record, error)
	write func(context.Context, record) error
}

// layout is how a record lies in an object.
type layout struct {
	resource         schema.GroupVersionResource
	apiVersion, kind string

	get func(map[string]any) (record, error)
	set func(map[string]any, record) error
}

var (
	lease = layout{
		resource: schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, apiVersion: "coordination.k8s.io/v1", kind: "Lease",
		get: recordOfLease, set: recordIntoLease,
	}
	configMap = layout{
		resource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, apiVersion: "v1", kind: "ConfigMap",
		get: recordOfConfigMap, set: recordIntoConfigMap,
	}
)

// open makes the lock of an election, for one goroutine.
func open(c Config) lock {
	l := lease
	if c.Election.ConfigMap {
		l = configMap
	}
	client := c.Client.Resource(l.resource).Namespace(c.Namespace)
	var last *unstructured.Unstructured // nil if it isn't there
	return lock{
		read: func(ctx context.Context) (record, error) {
			found, err := client.Get(ctx, c.Election.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				last = nil
				return record{}, nil
			}
			if err != nil {
				return record{}, err
			}
			last = found
			return l.get(found.Object)
		},
		write: func(ctx context.Context, r record) (err error) {
			last, err = l.write(ctx, client, last, c.Election.Name, r)
			return err
		},
	}
}

// write returns what the object is now; as it was, if the record wasn't written.
func (l layout) write(ctx context.Context, client dynamic.ResourceInterface, last *unstructured.Unstructured, name string, r record) (*unstructured.Unstructured, error) {
	changed := &unstructured.Unstructured{Object: map[string]any{"apiVersion": l.apiVersion, "kind": l.kind, "metadata": map[string]any{"name": name}}}
	if last != nil {
		changed = last.DeepCopy()
	}
	if err := l.set(changed.Object, r); err != nil {
		return last, err
	}
	var written *unstructured.Unstructured
	var err error
	if last == nil {
		written, err = client.Create(ctx, changed, metav1.CreateOptions{})
	} else {
		written, err = client.Update(ctx, changed, metav1.UpdateOptions{})
	}
	if err != nil {
		return last, err
	}
	return written, nil
}

// annotation holds the record of a lock that is a ConfigMap.
const annotation = "control-plane.alpha.kubernetes.io/leader"

func recordOfConfigMap(o map[string]any) (record, error) {
	var r record
	text, _, err := unstructured.NestedString(o, "metadata", "annotations", annotation)
	if err != nil || text == "" {
		return r, err
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("annotation %s: %w: delete the ConfigMap", annotation, err)
	}
	return r, nil
}

func recordIntoConfigMap(o map[string]any, r record) error {
	r.Acquired, r.Renewed = r.Acquired.Truncate(time.Second), r.Renewed.Truncate(time.Second)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return unstructured.SetNestedField(o, string(text), "metadata", "annotations", annotation)
}

// leaseSpec is the spec of a Lease.
type leaseSpec struct {
	Holder      string           `json:"holderIdentity"`
	Seconds     int              `json:"leaseDurationSeconds"`
	Acquired    metav1.MicroTime `json:"acquireTime"`
	Renewed     metav1.MicroTime `json:"renewTime"`
	Transitions int              `json:"leaseTransitions"`
}

func recordOfLease(o map[string]any) (record, error) {
	var spec leaseSpec
	text, err := json.Marshal(o["spec"])
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	return record{spec.Holder, spec.Seconds, spec.Acquired.Time, spec.Renewed.Time, spec.Transitions}, err
}

func recordIntoLease(o map[string]any, r record) error {
	text, err := json.Marshal(leaseSpec{r.Holder, r.Seconds, metav1.NewMicroTime(r.Acquired), metav1.NewMicroTime(r.Renewed), r.Transitions})
	if err != nil {
		return err
	}
	spec := make(map[string]any)
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	o["spec"] = spec
	return nil
}
