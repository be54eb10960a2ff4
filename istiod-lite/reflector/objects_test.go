package reflector

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// script is an API server that answers lists one after the other; each watch has what is sent into it.
type script struct {
	dynamic.ResourceInterface
	streams bool // what there is; else it has to be listed
	lists   []answer
	events  chan watch.Event
	asked   []metav1.ListOptions
}

type answer struct {
	version, more string
	names         []string
	err           error
}

func (s *script) List(ctx context.Context, options metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	s.asked = append(s.asked, options)
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, errors.New("a list may take for ever")
	}
	if len(s.lists) == 0 {
		return nil, errors.New("connection reset")
	}
	a := s.lists[0]
	s.lists = s.lists[1:]
	list := new(unstructured.UnstructuredList)
	list.SetResourceVersion(a.version)
	list.SetContinue(a.more)
	for _, name := range a.names {
		list.Items = append(list.Items, *object(name, a.version))
	}
	return list, a.err
}

func (s *script) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	s.asked = append(s.asked, options)
	switch _, bounded := ctx.Deadline(); {
	case !bounded:
		return nil, errors.New("a watch may take for ever")
	case options.SendInitialEvents != nil && !s.streams:
		return nil, apierrors.NewBadRequest("sendInitialEvents is not known")
	}
	return watch.NewStreamWatcher(&stream{ctx, s.events}, apierrors.NewClientErrorReporter(500, "WATCH", "")), nil
}

// stream is a watch's connection.
type stream struct {
	ctx    context.Context
	events chan watch.Event
}

func (s *stream) Decode() (watch.EventType, runtime.Object, error) {
	select {
	case event, open := <-s.events:
		if open {
			return event.Type, event.Object, nil
		}
	case <-s.ctx.Done():
	}
	return "", nil, io.EOF
}

func (*stream) Close() {}

func object(name, version string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
	o.SetNamespace("demo")
	o.SetName(name)
	o.SetResourceVersion(version)
	return o
}

// follow follows what a script says and returns what was told, when the time is over.
func follow(t *testing.T, s *script, during func()) []string {
	t.Helper()
	var told []string
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		s.events = make(chan watch.Event)
		go func() {
			defer close(done)
			Objects[string]{
				Kind: "ConfigMap", Client: s, Fields: "metadata.name=a", Labels: "b=c", Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
				Read:   (*unstructured.Unstructured).GetResourceVersion,
				Put:    func(n Name, version string) { told = append(told, n.Namespace+"/"+n.Name+" "+version) },
				Gone:   func(n Name) { told = append(told, n.Namespace+"/"+n.Name+" gone") },
				Listed: func() { told = append(told, "listed") },
			}.Follow(ctx)
		}()
		synctest.Wait()
		during()
		time.Sleep(time.Minute) // of the test's own time
		cancel()
		<-done
	})
	return told
}

func TestAListThatFailsHalfwayTellsNothing(t *testing.T) {
	s := &script{lists: []answer{
		{version: "5", more: "2", names: []string{"a"}}, {err: errors.New("connection refused")},
		{version: "7", more: "2", names: []string{"b"}}, {names: []string{"c"}, version: "7"},
	}}
	if told, want := follow(t, s, func() {}), []string{"demo/b 7", "demo/c 7", "listed"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	for _, options := range s.asked {
		if options.FieldSelector != "metadata.name=a" || options.LabelSelector != "b=c" || !options.Watch && options.Limit != pageSize {
			t.Errorf("asked for %+v", options)
		}
	}
}

func TestWhatChangesIsToldAndAfterAGapWhatWent(t *testing.T) {
	s := &script{lists: []answer{{version: "5", names: []string{"a", "b"}}, {version: "9", names: []string{"b"}}}}
	told := follow(t, s, func() {
		s.events <- watch.Event{Type: watch.Modified, Object: object("b", "6")}
		s.events <- watch.Event{Type: watch.Added, Object: object("c", "7")}
		s.events <- watch.Event{Type: watch.Deleted, Object: object("c", "8")}
		s.events <- watch.Event{Type: watch.Error, Object: &metav1.Status{Code: 410, Reason: metav1.StatusReasonExpired}}
	})
	want := []string{"demo/a 5", "demo/b 5", "listed", "demo/b 6", "demo/c 7", "demo/c gone", "demo/b 9", "demo/a gone", "listed"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

func TestWhatAServerStreamsIsToldWhenAllOfItCame(t *testing.T) {
	s := &script{streams: true}
	end := object("", "6")
	end.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	told := follow(t, s, func() {
		s.events <- watch.Event{Type: watch.Added, Object: object("a", "3")}
		s.events <- watch.Event{Type: watch.Bookmark, Object: end}
		s.events <- watch.Event{Type: watch.Added, Object: object("b", "7")}
	})
	if want := []string{"demo/a 3", "listed", "demo/b 7"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// What there is may be much: of each object stays what counts, while the others are still on their way.
func TestOnlyWhatCountsStaysInMemory(t *testing.T) {
	keep := &teller[string]{Objects: Objects[string]{Read: (*unstructured.Unstructured).GetResourceVersion}}
	large := object("a", "3")
	large.SetAnnotations(map[string]string{"note": "long"})
	kept, err := keep.Transformer()(large)
	want := &item[string]{metav1.ObjectMeta{Namespace: "demo", Name: "a", ResourceVersion: "3"}, "3"}
	if err != nil || !reflect.DeepEqual(kept, want) {
		t.Errorf("%+v %v", kept, err)
	}
}
