package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
)

// record is a set of actions that notes what it is asked to do, with the seconds since the test began.
type record struct {
	mu    sync.Mutex
	began time.Time
	lines []string
	// found says what Adopt finds; fail, what Enrol says, and after how long; drain, how long Unenrol takes.
	found        bool
	fail         error
	takes, drain time.Duration

	namespaces map[string]pods.Labels // that are there
	notices    []string
}

func (r *record) note(what string, p pods.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf("%.1fs %s %s", time.Since(r.began).Seconds(), what, p.UID))
}

func (r *record) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := r.lines
	r.lines = nil
	return lines
}

func (r *record) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *record) actions() Actions {
	return Actions{
		Adopt: func(p pods.ID, _ Home, _ pods.Capture, wanted bool) (bool, error) {
			if r.found {
				r.note(fmt.Sprintf("adopt(wanted %v)", wanted), p)
			}
			return r.found, nil
		},
		Enrol: func(ctx context.Context, p pods.ID, _ Home, how pods.Capture) error {
			if r.note("enrol", p); how != (pods.Capture{}) {
				r.note(fmt.Sprintf("%+v", how), p)
			}
			if r.takes > 0 {
				select {
				case <-time.After(r.takes):
				case <-ctx.Done():
					r.note("enrolling called off", p)
					return ctx.Err()
				}
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.fail
		},
		Unenrol: func(ctx context.Context, p pods.ID, _ Home) error {
			r.note("un-enrol", p)
			select {
			case <-time.After(r.drain):
				r.note("un-enrolled", p)
				return nil
			case <-ctx.Done():
				r.note("un-enrolling called off", p)
				return ctx.Err()
			}
		},
		Forget: func(_ context.Context, p pods.ID) error { r.note("forget", p); return nil },
	}
}

// bubble runs an agent in fake time; its objects come by apply.
func bubble(t *testing.T, f func(a *Agent, r *record, apply func(...pods.Pod))) {
	state := filepath.Join(t.TempDir(), "places")
	synctest.Test(t, func(t *testing.T) {
		r := &record{began: time.Now()}
		a := New(Config{
			Node: "node1", Actions: r.actions(), Log: slog.New(slog.DiscardHandler), Verify: 10 * time.Second,
			Notice: func(pod pods.ID, reason, message string) {
				r.notices = append(r.notices, pod.UID+" "+reason+": "+message)
			},
		}, state)
		ctx, cancel := context.WithCancel(t.Context())
		f(a, r, func(all ...pods.Pod) {
			t.Helper()
			if err := a.apply(ctx, pods.Set{Pods: all, Namespaces: r.namespaces}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		})
		cancel()
		a.stop()
		a.running.Wait()
	})
}

func (r *record) want(t *testing.T, lines ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(lines, r.take()); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
}

const home = "/proc/self/ns/net" // a namespace that is there

func podObject(name string, mode string) pods.Pod {
	return pods.Pod{ID: pods.ID{UID: name, Namespace: "demo", Name: name}, Node: "node1", Netns: home, Labels: inMode(mode)}
}

func inMode(mode string) pods.Labels { return pods.Labels{"istio.io/dataplane-mode": mode} }

func TestOnlyThisNodesPodsAreEnrolled(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		elsewhere := podObject("b", "ambient")
		elsewhere.Node = "node2"
		apply(podObject("a", "ambient"), elsewhere, podObject("c", "none"))
		r.want(t, "0.0s enrol a")
		var states []string
		for _, v := range a.Views() {
			states = append(states, v.UID+" "+v.State)
		}
		if diff := cmp.Diff([]string{"a enrolled", "c out"}, states); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEveryPodIsVerifiedOnATimer(t *testing.T) {
	bubble(t, func(_ *Agent, r *record, apply func(...pods.Pod)) {
		apply(podObject("a", "ambient"))
		time.Sleep(21 * time.Second)
		r.want(t, "0.0s enrol a", "10.0s enrol a", "20.0s enrol a")
	})
}

// The runtime knows a pod's addresses before its object does, and the object has them for an agent that comes later.
func TestAPodIsEnrolledWithItsAddresses(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		var told []string
		a.cfg.Actions.Enrol = func(_ context.Context, p pods.ID, at Home, _ pods.Capture) error {
			told = append(told, fmt.Sprint(p.UID, at.IPs))
			return nil
		}
		want := func(lines ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(lines, slices.Compact(told)); diff != "" {
				t.Errorf("enrolled (-want +got):\n%s", diff)
			}
			told = nil
		}
		first, second := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
		pod := podObject("a", "ambient")
		pod.Netns = ""
		apply(pod)
		if _, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "a"}, home, []netip.Addr{first}); err != nil {
			t.Fatal(err)
		}
		want("a[10.0.0.1]")
		pod.IPs = []netip.Addr{first, second}
		apply(pod)
		want("a[10.0.0.1 fd00::1 10.0.0.1]")
		pod.IPs = nil // as when a job is about to end
		apply(pod)
		time.Sleep(10 * time.Second)
		want("a[10.0.0.1 fd00::1 10.0.0.1]")
		if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: "a"}, home); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "a"}, home, []netip.Addr{second}); err != nil {
			t.Fatal(err)
		}
		want("a[10.0.0.1 fd00::1 fd00::1]")
	})
}

func TestFailuresAreRetriedWithBackoff(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.set(func() { r.fail = errors.New("no proxy") })
		apply(podObject("a", "ambient"))
		time.Sleep(13 * time.Second)
		r.want(t, "0.0s enrol a", "0.1s enrol a", "0.3s enrol a", "0.7s enrol a", "1.5s enrol a", "3.1s enrol a", "6.3s enrol a", "11.3s enrol a")
		if v := a.Views()[0]; v.State != "enrolling" || v.Error != "no proxy" || v.Retries != 8 {
			t.Errorf("view is %+v", v)
		}
		r.set(func() { r.fail = nil })
		a.Retry() // a proxy has come
		r.want(t, "13.0s enrol a")
		time.Sleep(5 * time.Second)
		r.want(t)
	})
}

func TestRelabellingWhileDrainingTurnsBack(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.drain = time.Minute
		apply(podObject("a", "ambient"))
		apply(podObject("a", "none"))
		time.Sleep(5 * time.Second)
		if v := a.Views()[0]; v.State != "un-enrolling" {
			t.Errorf("state is %s", v.State)
		}
		apply(podObject("a", "none")) // nothing new: draining goes on
		apply(podObject("a", "ambient"))
		r.want(t, "0.0s enrol a", "0.0s un-enrol a", "5.0s un-enrolling called off a", "5.0s enrol a")
		if v := a.Views()[0]; v.State != "enrolled" {
			t.Errorf("state is %s", v.State)
		}
	})
}

func TestADeletedPodThatStillLivesIsUnenrolledAndForgotten(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.drain = 3 * time.Second
		apply(podObject("a", "ambient"), podObject("b", "none"))
		apply()
		time.Sleep(4 * time.Second)
		r.want(t, "0.0s enrol a", "0.0s un-enrol a", "3.0s un-enrolled a")
		if views := a.Views(); len(views) != 0 {
			t.Errorf("still known: %+v", views)
		}
	})
}

// An evicted pod, one on a node that was given up, and one that was deleted by force have "ended" while their processes still run.
func TestAPodThatEndsStaysInTheMeshUntilItsNamespaceIsGone(t *testing.T) {
	ended := func(o pods.Pod) []pods.Pod {
		o.Ended = true
		return []pods.Pod{o}
	}
	for name, end := range map[string]func(o pods.Pod) []pods.Pod{"ended": ended, "object deleted": func(pods.Pod) []pods.Pod { return nil }} {
		t.Run(name, func(t *testing.T) {
			link := filepath.Join(t.TempDir(), "netns")
			if err := os.Symlink(home, link); err != nil {
				t.Fatal(err)
			}
			bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
				a.cfg.Complete = true
				o := podObject("a", "ambient")
				o.Netns = link
				apply(o)
				left := end(o)
				apply(left...)
				time.Sleep(time.Minute)
				r.want(t, "0.0s enrol a")
				if err := os.Remove(link); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second)
				r.want(t, "61.0s forget a")
				if views := a.Views(); len(views) != len(left) {
					t.Errorf("known are %+v", views)
				}
			})
		})
	}
}

// Whoever deletes a pod by force is faster than the runtime, which wants the proxy to have let go when it is done.
func TestAPodIsLetGoWhenTheRuntimeStopsItAfterItsObjectIsDeleted(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		a.cfg.Complete = true
		apply(podObject("a", "ambient"))
		apply()
		r.want(t, "0.0s enrol a")
		if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: "a"}, ""); err != nil {
			t.Fatal(err)
		}
		r.want(t, "0.0s forget a")
		if views := a.Views(); len(views) != 0 {
			t.Errorf("still known: %+v", views)
		}
		if _, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "a"}, home, nil); err == nil {
			t.Error("a deleted pod may start")
		}
	})
}

func TestAPodThatReplacesAnotherInItsNamespaceTakesItOver(t *testing.T) {
	bubble(t, func(_ *Agent, r *record, apply func(...pods.Pod)) {
		old := podObject("a", "ambient")
		apply(old)
		young := old
		young.UID = "a2"
		apply(young)
		lines := r.take()
		slices.Sort(lines[1:]) // the two pods' workers are independent
		if diff := cmp.Diff([]string{"0.0s enrol a", "0.0s enrol a2", "0.0s forget a"}, lines); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatAnEarlierAgentLeftIsAdoptedBeforeAnythingElse(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.found = true
		a.cfg.Loaded = func() error { r.note("loaded", pods.ID{}); return nil }
		b := podObject("b", "none")
		b.Netns = "/proc/thread-self/ns/net"
		apply(podObject("a", "ambient"), b)
		lines := r.take()
		slices.Sort(lines[3:])
		if diff := cmp.Diff([]string{"0.0s adopt(wanted true) a", "0.0s adopt(wanted false) b", "0.0s loaded ", "0.0s enrol a", "0.0s un-enrol b", "0.0s un-enrolled b"}, lines); diff != "" {
			t.Error(diff)
		}
	})
}

func TestANamespaceThatVanishesAndComesBack(t *testing.T) {
	link := filepath.Join(t.TempDir(), "netns")
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		o := podObject("a", "ambient")
		o.Netns = link
		apply(o)
		r.want(t)
		if v := a.Views()[0]; !strings.Contains(v.Error, "no network namespace at") {
			t.Errorf("view is %+v", v)
		}
		if err := os.Symlink(home, link); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if lines := r.take(); len(lines) != 1 || !strings.HasSuffix(lines[0], "enrol a") {
			t.Errorf("after it came: %q", lines)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		if lines := r.take(); len(lines) != 1 || !strings.HasSuffix(lines[0], "forget a") {
			t.Errorf("after it went: %q", lines)
		}
	})
}

func TestANamespaceThatVanishesEndsDraining(t *testing.T) {
	link := filepath.Join(t.TempDir(), "netns")
	if err := os.Symlink(home, link); err != nil {
		t.Fatal(err)
	}
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.drain = time.Hour
		o := podObject("a", "ambient")
		o.Netns = link
		apply(o)
		apply()
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		r.want(t, "0.0s enrol a", "0.0s un-enrol a", "1.0s un-enrolling called off a", "1.0s forget a")
		if len(a.Views()) != 0 {
			t.Error("still known")
		}
	})
}

func TestWhereAPodLivesMustBeSaid(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		o := podObject("a", "ambient")
		o.Netns = ""
		apply(o)
		r.want(t)
		if v := a.Views()[0]; !strings.Contains(v.Error, "annotate it with tulle.dev/netns") {
			t.Errorf("error is %q", v.Error)
		}
	})
}

func TestTwoPodsWithOneUIDAreNotMixedUp(t *testing.T) {
	bubble(t, func(_ *Agent, r *record, apply func(...pods.Pod)) {
		second := podObject("a", "none")
		second.Name = "impostor"
		apply(podObject("a", "ambient"), second)
		r.want(t, "0.0s enrol a")
	})
}

func TestTwoPodsInOneNamespaceAreNotMixedUp(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		apply(podObject("a", "ambient"), podObject("b", "none"), podObject("c", "ambient"))
		r.want(t, "0.0s enrol a")
		if v := a.Views()[2]; v.Netns != "" || v.Error == "" {
			t.Errorf("view of the second is %+v", v)
		}
	})
}

// The runtime's word.

func TestTheRuntimeStartsPods(t *testing.T) {
	homeless := podObject("a", "ambient")
	homeless.Netns = ""
	cases := []struct {
		name, namespace, pod string
		fail                 error
		enrolled             bool
		err                  string
	}{
		{"wanted", "demo", "a", nil, true, ""},
		{"wanted but failing", "demo", "a", errors.New("no proxy"), true, "no proxy"},
		{"not wanted", "demo", "b", nil, false, ""},
		{"unknown, outside the mesh", "demo", "unknown", nil, false, ""},
		{"unknown, in the mesh", "mesh", "unknown", nil, false, "isn't known to the node agent"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
				r.fail = c.fail
				r.namespaces = map[string]pods.Labels{"mesh": inMode("ambient")}
				apply(homeless, podObject("b", "none"))
				enrolled, err := a.Started(context.Background(), Named{Namespace: c.namespace, Name: c.pod}, home, nil)
				if enrolled != c.enrolled || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("enrolled %v, error %v", enrolled, err)
				}
			})
		})
	}
}

func TestTheRuntimeIsToldToWaitWhileTheAgentStarts(t *testing.T) {
	bubble(t, func(a *Agent, _ *record, _ func(...pods.Pod)) {
		if _, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "a"}, home, nil); !errors.Is(err, errStarting) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestAPodThatComesJustAfterTheRuntimesCallIsFound(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.namespaces = map[string]pods.Labels{"demo": inMode("ambient")}
		apply()
		result := make(chan error, 1)
		go func() {
			_, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "a"}, home, nil)
			result <- err
		}()
		time.Sleep(50 * time.Millisecond)
		late := podObject("a", "")
		late.Netns = ""
		apply(late)
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

func TestTheRuntimesDeadlineHolds(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		apply(podObject("a", "ambient"))
		r.take()
		a.cfg.Actions.Enrol = func(ctx context.Context, _ pods.ID, _ Home, _ pods.Capture) error {
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := a.Verify(ctx, Named{Namespace: "demo", Name: "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestAStoppedPodIsLetGoUntilItStartsAgain(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		apply(podObject("a", "ambient"))
		if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: "a"}, ""); err != nil {
			t.Fatal(err)
		}
		r.want(t, "0.0s enrol a", "0.0s forget a")
		time.Sleep(time.Minute) // its namespace is still there, but not for long
		r.want(t)
		if _, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "a"}, home, nil); err != nil {
			t.Fatal(err)
		}
		r.want(t, "60.0s enrol a")
		if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: "unknown"}, ""); err != nil {
			t.Errorf("an unknown pod: %v", err)
		}
	})
}

func TestVerifyingAPodOutsideTheMeshIsEasy(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		apply(podObject("b", "none"))
		if err := a.Verify(context.Background(), Named{Namespace: "demo", Name: "b"}); err != nil {
			t.Error(err)
		}
		if err := a.Verify(context.Background(), Named{Namespace: "demo", Name: "unknown"}); err != nil {
			t.Error(err)
		}
	})
}

func TestAPodStoppedBeforeTheAgentKnowsItIsLetGo(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.found = true
		remembered := podObject("b", "ambient")
		remembered.Netns = ""
		if err := a.paths.put("b", home); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: name}, ""); err != nil {
				t.Fatal(err)
			}
		}
		apply(podObject("a", "ambient"), remembered)
		time.Sleep(time.Minute)
		apply(podObject("a", "ambient"), remembered)
		r.want(t)
		if path := a.paths.get("b"); path != "" {
			t.Errorf("still remembered at %s", path)
		}
		if _, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "b"}, home, nil); err != nil {
			t.Fatal(err)
		}
		lines := slices.Compact(r.take()) // the wish may have been answered before the question, which is then asked anew
		if diff := cmp.Diff([]string{"60.0s enrol b"}, lines); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAPodStoppedJustAfterItWasAdoptedIsLetGo(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.found = true
		stopped := make(chan error, 1)
		a.cfg.Loaded = func() error { // proxies and runtimes are let in from here on, the workers don't run yet
			go func() { stopped <- a.Stopped(context.Background(), Named{Namespace: "demo", Name: "a"}, "") }()
			synctest.Wait()
			return nil
		}
		apply(podObject("a", "ambient"))
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		r.want(t, "0.0s adopt(wanted true) a", "0.0s forget a")
	})
}

func TestAStoppedPodsAttemptIsCutShort(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.drain = time.Hour
		apply(podObject("a", "ambient"))
		apply(podObject("a", "none"))
		if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: "a"}, ""); err != nil {
			t.Fatal(err)
		}
		r.want(t, "0.0s enrol a", "0.0s un-enrol a", "0.0s un-enrolling called off a", "0.0s forget a")
	})
}

// The runtime gives a pod up while its proxy hasn't answered yet.
func TestAPodThatEndsWhileItIsTakenInIsForgotten(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.takes = 20 * time.Second
		o := podObject("a", "ambient")
		o.Netns = ""
		apply(o)
		started := make(chan error, 1)
		go func() {
			_, err := a.Started(context.Background(), Named{Namespace: "demo", Name: "a"}, home, nil)
			started <- err
		}()
		synctest.Wait()
		if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: "a"}, home); err != nil {
			t.Fatal(err)
		}
		if err := <-started; err == nil {
			t.Error("the runtime is told to go on")
		}
		lines := slices.DeleteFunc(r.take(), func(line string) bool { return line == "0.0s enrol a" || line == "0.0s enrolling called off a" })
		if diff := cmp.Diff([]string{"0.0s forget a"}, lines); diff != "" {
			t.Error(diff)
		}
		apply()
		if views := a.Views(); len(views) != 0 {
			t.Errorf("still known: %+v", views)
		}
	})
}

func TestASlowDiskStopsNobodyElse(t *testing.T) {
	r := &record{began: time.Now()}
	a := New(Config{Node: "node1", Actions: r.actions(), Log: slog.New(slog.DiscardHandler), Verify: time.Minute}, filepath.Join(t.TempDir(), "places"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	homeless := podObject("a", "ambient")
	homeless.Netns = ""
	if err := a.apply(ctx, pods.Set{Pods: []pods.Pod{homeless}}); err != nil {
		t.Fatal(err)
	}
	a.paths.writing.Lock() // as while the file is written
	started := make(chan error, 1)
	go func() {
		_, err := a.Started(ctx, Named{Namespace: "demo", Name: "a"}, home, nil)
		started <- err
	}()
	for range 50 {
		free := a.mu.TryLock()
		for tries := 0; !free && tries < 1000; tries++ {
			time.Sleep(time.Millisecond)
			free = a.mu.TryLock()
		}
		if !free {
			t.Error("the agent's lock is held while the state file is written")
			break
		}
		a.mu.Unlock()
		time.Sleep(time.Millisecond) // until the other goroutine has come to the file
	}
	a.paths.writing.Unlock()
	if err := <-started; err != nil {
		t.Error(err)
	}
	cancel()
	a.stop()
	a.running.Wait()
}

// A pod of a StatefulSet is followed by another of the same name, of which the runtime may know first.

func TestThePodOfTheSameNameThatIsntKnownYetHasToWait(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		a.cfg.Complete = true
		old := podObject("a", "ambient")
		old.UID = "old"
		apply(old)
		r.take()
		young := Named{Namespace: "demo", Name: "a", UID: "young"}
		if _, err := a.Started(context.Background(), young, "/proc/thread-self/ns/net", nil); err == nil || !strings.Contains(err.Error(), "isn't known to the node agent") {
			t.Errorf("error is %v", err)
		}
		if err := a.Stopped(context.Background(), young, ""); err != nil {
			t.Error(err)
		}
		time.Sleep(8 * time.Second)
		r.want(t) // nothing happened to the old one
	})
}

func TestClearingUpLateDoesNothingToTheNextNamespace(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		pod, named := podObject("a", "ambient"), Named{Namespace: "demo", Name: "a", UID: "a"}
		pod.Netns = ""
		apply(pod)
		if _, err := a.Started(context.Background(), named, home, nil); err != nil {
			t.Fatal(err)
		}
		// The wish may have been answered before the question, which is then asked anew.
		if diff := cmp.Diff([]string{"0.0s enrol a"}, slices.Compact(r.take())); diff != "" {
			t.Error(diff)
		}
		if err := a.Stopped(context.Background(), named, "/run/netns/before"); err != nil {
			t.Error(err)
		}
		r.want(t)
		if err := a.Stopped(context.Background(), named, home); err != nil {
			t.Error(err)
		}
		r.want(t, "0.0s forget a")
	})
}

// In a cluster.

func TestARunningPodIsLookedForOnceItHasAnAddress(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		looks := 0
		a.cfg.Find = func(pods.ID, []netip.Addr) (string, error) {
			looks++
			return home, nil
		}
		pod := podObject("a", "ambient")
		pod.Netns = ""
		apply(pod)
		time.Sleep(30 * time.Second)
		r.want(t)
		if v := a.Views()[0]; looks > 0 || !strings.Contains(v.Error, "has no network namespace yet") || len(r.notices) > 0 {
			t.Errorf("looked %d times, said %q: %+v", looks, r.notices, v)
		}
		pod.IPs = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		apply(pod)
		r.want(t, "30.0s enrol a")
		time.Sleep(9 * time.Second)
		if v := a.Views()[0]; looks != 1 || v.Netns != home || v.State != stateEnrolled {
			t.Errorf("looked %d times: %+v", looks, v)
		}
		if err := a.Stopped(context.Background(), Named{Namespace: "demo", Name: "a"}, home); err != nil {
			t.Error(err)
		}
		r.want(t, "39.0s forget a")
	})
}

func TestWhereEveryPodHasAnObjectOneWithoutWaits(t *testing.T) {
	for name, c := range map[string]struct {
		namespace string
		starts    bool
	}{"outside the mesh": {"demo", false}, "excluded": {"kube-system", true}} {
		bubble(t, func(a *Agent, _ *record, apply func(...pods.Pod)) {
			a.cfg.Complete, a.cfg.Rules.Excluded = true, []string{"kube-system"}
			apply()
			if _, err := a.Started(context.Background(), Named{Namespace: c.namespace, Name: "a"}, home, nil); (err == nil) != c.starts {
				t.Errorf("%s: error is %v", name, err)
			}
		})
	}
}

func TestWhatAnEarlierAgentSaidIsWithdrawn(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		a.cfg.Left = func(pod pods.ID) bool { return pod.UID == "a" }
		homeless := podObject("a", "none")
		homeless.Netns = ""
		apply(homeless, podObject("b", "none"))
		r.want(t, "0.0s forget a")
	})
}

func TestWhatAPersonShouldKnowIsSaidOnce(t *testing.T) {
	bubble(t, func(a *Agent, r *record, apply func(...pods.Pod)) {
		r.set(func() { r.fail = errors.New("no proxy") })
		pod := podObject("a", "ambient")
		pod.Annotations = pods.Labels{"ambient.istio.io/dns-capture": "maybe"}
		apply(pod)
		time.Sleep(time.Minute)
		apply(pod)
		want := []string{
			`a AnnotationIgnored: ambient.istio.io/dns-capture is "maybe": want true or false`,
			"a NotInMesh: no proxy; it will be tried again",
		}
		if diff := cmp.Diff(want, r.notices); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAPodsOwnWishForDNSCounts(t *testing.T) {
	bubble(t, func(_ *Agent, r *record, apply func(...pods.Pod)) {
		pod := podObject("a", "ambient")
		apply(pod)
		pod.Annotations = pods.Labels{"ambient.istio.io/dns-capture": "true"}
		apply(pod)
		r.want(t, "0.0s enrol a", "0.0s enrol a", "0.0s {DNS:true Ingress:false Virtual:} a")
	})
}
