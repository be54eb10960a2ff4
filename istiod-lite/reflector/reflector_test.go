package reflector

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// TestMain does without client-go's handlers of errors, which compare real times with those of tests.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil
	goleak.VerifyTestMain(m)
}

// during runs a reflector of a server that answers as it is told, for some time and until it has ended. It returns how long that took,
// and what was said.
func during(t *testing.T, length time.Duration, list func() error, begin func() (watch.Interface, error)) (ended time.Duration, said []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		log := &memory{}
		go func() {
			defer close(done)
			Run(ctx, Config{
				Name: "Node", Store: cache.NewStore(cache.MetaNamespaceKeyFunc), Log: slog.New(log),
				List: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
					return &page[string]{ListMeta: metav1.ListMeta{ResourceVersion: "5"}}, list()
				},
				Watch: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return begin() },
			})
		}()
		time.Sleep(length)
		cancel()
		began := time.Now()
		<-done
		ended, said = time.Since(began), log.said
	})
	return ended, said
}

// memory is a log.
type memory struct{ said []string }

func (*memory) Enabled(context.Context, slog.Level) bool { return true }

func (m *memory) Handle(_ context.Context, r slog.Record) error {
	m.said = append(m.said, r.Message)
	return nil
}

func (m *memory) WithAttrs([]slog.Attr) slog.Handler { return m }

func (m *memory) WithGroup(string) slog.Handler { return m }

// hurt is an error that passes.
var hurt = apierrors.NewTooManyRequests("come again", 0)

func TestItEndsAtOnceWhateverItWaitsFor(t *testing.T) {
	for length := range 20 {
		refuse := func() (watch.Interface, error) { return nil, hurt }
		if ended, _ := during(t, 30*time.Second+time.Duration(length)*77*time.Millisecond, func() error { return hurt }, refuse); ended > 0 {
			t.Fatalf("it went on for %v", ended)
		}
	}
}

func TestAWatchThatEndsAtOnceIsBegunLessAndLessOften(t *testing.T) {
	for name, begin := range map[string]func() (watch.Interface, error){
		"an end":  func() (watch.Interface, error) { return ended(), nil },
		"an EOF":  func() (watch.Interface, error) { return watch.NewEmptyWatch(), nil },
		"refusal": func() (watch.Interface, error) { return nil, hurt },
	} {
		t.Run(name, func(t *testing.T) {
			count := 0
			during(t, time.Minute, func() error { return nil }, func() (watch.Interface, error) { count++; return begin() })
			if count < 10 || count > 100 {
				t.Errorf("%d times in a minute", count)
			}
		})
	}
}

// ended is a watch without an event.
func ended() watch.Interface {
	none := make(chan watch.Event)
	close(none)
	return watch.NewStreamWatcher(&stream{context.Background(), none}, apierrors.NewClientErrorReporter(500, "WATCH", ""))
}

func TestWhatIsInTheWayIsSaidOnceAndWhenItHasPassed(t *testing.T) {
	const lost, back = "can't follow changes, what is known stays in force", "following changes again"
	nodes := schema.GroupResource{Resource: "nodes"}
	denied := apierrors.NewForbidden(nodes, "", nil)
	absent := apierrors.NewNotFound(nodes, "")
	for name, test := range map[string]struct {
		err    error
		passes int // after so many requests
		want   []string
	}{
		"rights that are missing":      {denied, 1000, []string{lost}},
		"rights that come":             {denied, 20, []string{lost, back}},
		"what passes soon":             {hurt, 2, nil},
		"a kind that the server lacks": {absent, 1000, nil},
	} {
		t.Run(name, func(t *testing.T) {
			count := 0
			fails := func() error {
				if count++; count > test.passes {
					return nil
				}
				return test.err
			}
			_, said := during(t, time.Minute, fails, func() (watch.Interface, error) {
				if err := fails(); err != nil {
					return nil, err
				}
				return ended(), nil
			})
			if !slices.Equal(said, test.want) {
				t.Errorf("said %q", said)
			}
		})
	}
}
