package follow

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// broken is an API server that fails in the middle of a list.
type broken struct {
	dynamic.ResourceInterface
	lists int
}

func (b *broken) List(_ context.Context, options metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	b.lists++
	switch {
	case b.lists == 1:
		list := &unstructured.UnstructuredList{Items: []unstructured.Unstructured{{Object: map[string]any{"metadata": map[string]any{"name": "a"}}}}}
		list.SetContinue("more")
		return list, nil
	case options.Continue != "":
		return nil, errors.New("connection refused")
	}
	return &unstructured.UnstructuredList{}, nil
}

func (b *broken) Watch(ctx context.Context, _ metav1.ListOptions) (watch.Interface, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestWhatWentAfterAListThatFailedHalfwayIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		Run(ctx, Config{
			Client: &broken{}, Log: slog.New(slog.DiscardHandler), Listed: cancel,
			Put:  func(o *unstructured.Unstructured) { told = append(told, "put "+o.GetName()) },
			Gone: func(n Name) { told = append(told, "gone "+n.Name) },
		})
		if want := []string{"put a", "gone a"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}
