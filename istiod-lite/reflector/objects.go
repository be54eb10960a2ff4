package reflector

import (
	"context"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// Name names an object. It has no namespace where its kind has none.
type Name struct{ Namespace, Name string }

// Objects are a few that the mesh isn't made of, such as those that the control plane writes itself, so that it sees when somebody
// changes them. Who is told of them is told by one call after the other.
type Objects[T any] struct {
	Kind   string
	Client dynamic.ResourceInterface
	// Fields and Labels are selectors, or empty. Who may list only objects of certain names has to name one here.
	Fields, Labels string
	// Read takes what counts out of an object, of which nothing else stays in memory.
	Read func(*unstructured.Unstructured) T
	// Put takes what counts of an object that came or may have changed, Gone the name of one that went.
	Put  func(Name, T)
	Gone func(Name)
	// Listed is called after everything was told: first when all that there is was put, then after each gap.
	Listed func()
	Log    *slog.Logger
}

// Follow follows them until the context ends.
func (o Objects[T]) Follow(ctx context.Context) {
	Run(ctx, Config{
		Name: o.Kind, List: o.list, Watch: o.watch, Log: o.Log.With("kind", o.Kind),
		Store: &teller[T]{Objects: o, known: make(map[Name]struct{})},
	})
}

func (o Objects[T]) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	options.FieldSelector, options.LabelSelector = o.Fields, o.Labels
	list, err := o.Client.List(ctx, options)
	if err != nil {
		return nil, err
	}
	all := &page[T]{ListMeta: metav1.ListMeta{ResourceVersion: list.GetResourceVersion(), Continue: list.GetContinue()}}
	for i := range list.Items {
		all.Items = append(all.Items, o.lean(&list.Items[i]))
	}
	return all, nil
}

func (o Objects[T]) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.FieldSelector, options.LabelSelector = o.Fields, o.Labels
	return o.Client.Watch(ctx, options)
}

// item is what is left of an object once it was read.
type item[T any] struct {
	metav1.ObjectMeta // no more of it than what the reflector needs
	value             T
}

func (o Objects[T]) lean(whole *unstructured.Unstructured) *item[T] {
	return &item[T]{metav1.ObjectMeta{
		Namespace: whole.GetNamespace(), Name: whole.GetName(), ResourceVersion: whole.GetResourceVersion(),
	}, o.Read(whole)}
}

func (i *item[T]) named() Name { return Name{i.Namespace, i.Name} }

// GetObjectKind has nothing to tell: all are of one kind.
func (*item[T]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject shares the value, which nobody changes.
func (i *item[T]) DeepCopyObject() runtime.Object {
	same := *i
	return &same
}

// page is a list of objects, or a part of one.
type page[T any] struct {
	metav1.ListMeta
	Items []*item[T]
}

// GetObjectKind is like that of item.
func (*page[T]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is like that of item.
func (p *page[T]) DeepCopyObject() runtime.Object {
	same := *p
	return &same
}

// teller is where the reflector puts objects. It knows their names, so that it can tell which are gone after a gap.
type teller[T any] struct {
	Objects[T]
	known map[Name]struct{}
}

var _ cache.TransformingStore = (*teller[struct{}])(nil)

// Transformer makes the reflector, while it gathers all objects, hold only what counts of them.
func (t *teller[T]) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return t.read(o), nil }
}

// read takes an object from a stream, or one that was read already.
func (t *teller[T]) read(o any) *item[T] {
	if whole, ok := o.(*unstructured.Unstructured); ok {
		return t.lean(whole)
	}
	return o.(*item[T])
}

// Add takes an object that came.
func (t *teller[T]) Add(o any) error {
	i := t.read(o)
	t.known[i.named()] = struct{}{}
	t.Put(i.named(), i.value)
	return nil
}

// Update takes an object that changed.
func (t *teller[T]) Update(o any) error { return t.Add(o) }

// Delete takes an object that went.
func (t *teller[T]) Delete(o any) error {
	name := t.read(o).named()
	delete(t.known, name)
	t.Gone(name)
	return nil
}

// Replace takes all objects that there are.
func (t *teller[T]) Replace(all []any, _ string) error {
	before := t.known
	t.known = make(map[Name]struct{}, len(all))
	for _, o := range all {
		_ = t.Add(o)
	}
	for name := range before {
		if _, still := t.known[name]; !still {
			t.Gone(name)
		}
	}
	t.Listed()
	return nil
}

// Resync isn't asked for.
func (t *teller[T]) Resync() error { return nil }
