package enroll_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

func TestPodsComeAndGo(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.accept()
	r.waitStatus(enroll.Status{})
	r.mustAdd("one", a)
	if r.serving() != "one" {
		t.Errorf("acknowledged, but %q runs", r.serving())
	}
	pod := r.pod("one")
	if pod.Name != "name-one" || pod.Namespace != "demo" || pod.ServiceAccount != "account" || pod.Netns.ID() != a.ID() {
		t.Errorf("pod %+v", pod)
	}
	r.waitStatus(enroll.Status{Active: 1}) // not ready: the snapshot isn't complete
	r.must(snapshot())
	r.waitStatus(enroll.Status{Ready: true, Active: 1})
	r.mustAdd("two", newNetns(t))
	r.must(del("one"))
	if r.serving() != "two" {
		t.Errorf("%q runs, want two", r.serving())
	}
	r.must(del("one"), del("never there"))
	r.waitStatus(enroll.Status{Ready: true, Active: 1})
}

// An agent may tell the pod's own resolv.conf; most don't.
func TestResolverOfThePod(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.accept()
	r.mustAdd("one", a)
	if r.pod("one").Resolver != nil {
		t.Errorf("an agent that doesn't tell says %+v", r.pod("one").Resolver)
	}
	file := a.File()
	defer file.Close()
	add := &zds.AddWorkload{Uid: "two", WorkloadInfo: &zds.WorkloadInfo{Name: "two", Namespace: "demo", ServiceAccount: "account",
		Resolver: &zds.Resolver{Nameservers: []string{"10.0.0.1"}, Searches: []string{"corp.example"}, Ndots: 2}}}
	if text := r.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Add{Add: add}}, file); text != "" {
		t.Fatal(text)
	}
	want := &enroll.Resolver{Nameservers: []string{"10.0.0.1"}, Searches: []string{"corp.example"}, Ndots: 2}
	if got := r.pod("two").Resolver; !reflect.DeepEqual(got, want) {
		t.Errorf("resolver %+v, want %+v", got, want)
	}
}

func TestKnownPod(t *testing.T) {
	r, a, b := newRig(t), newNetns(t), newNetns(t)
	r.accept()
	r.mustAdd("one", a)
	r.mustAdd("one", a) // the same sandbox: nothing to do
	if got := r.did(); got != "start one" {
		t.Errorf("after the same add again: %s", got)
	}
	r.mustAdd("one", b) // a new sandbox
	if got := r.did(); got != "start one, stop one, start one" {
		t.Errorf("after an add with another namespace: %s", got)
	}
	if r.pod("one").Netns.ID() != b.ID() {
		t.Error("the pod isn't in its new namespace")
	}
}

func TestReconnectKeepsPodsAndSnapshotEndsTheOthers(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.accept()
	r.mustAdd("added", a)
	r.mustAdd("kept", newNetns(t))
	r.mustAdd("deleted meanwhile", newNetns(t))
	r.mustAdd("gone", newNetns(t))
	r.must(snapshot())
	r.waitStatus(enroll.Status{Ready: true, Active: 4})
	r.accept() // hangs up first, as an agent that is restarted
	r.waitStatus(enroll.Status{Active: 4})
	r.mustAdd("added", a)
	r.must(keep("kept"), keep("unknown"))
	r.mustAdd("new", newNetns(t))
	r.must(keep("deleted meanwhile"), del("deleted meanwhile"))
	if got := r.serving(); got != "added deleted meanwhile gone kept new" {
		t.Errorf("before the snapshot's end %q runs", got)
	}
	r.must(snapshot())
	if got := r.serving(); got != "added kept new" {
		t.Errorf("after the snapshot %q runs", got)
	}
	r.waitStatus(enroll.Status{Ready: true, Active: 3})
	if strings.Contains(r.did(), "stop added") || strings.Contains(r.did(), "stop kept") {
		t.Errorf("pods that go on were stopped in between: %s", r.did())
	}
}

func TestPodThatCantStartIsTriedAgain(t *testing.T) {
	r, a := newRetryingRig(t, 50*time.Millisecond), newNetns(t)
	r.failStarts(errors.New("address already in use"))
	r.accept()
	file := a.File()
	defer file.Close()
	if text := r.send(add("one"), file); !strings.Contains(text, "demo/name-one") || !strings.Contains(text, "address already in use") {
		t.Errorf("acknowledged %q, want the pod and the reason", text)
	}
	r.must(snapshot()) // the connection goes on
	r.waitStatus(enroll.Status{Pending: []enroll.Pod{{UID: "one"}}})
	r.failStarts(nil)
	r.eventually("the retry", func() bool { return r.serving() == "one" })
	r.waitStatus(enroll.Status{Ready: true, Active: 1})
}

func TestDeletedPodIsNotTriedAgain(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.failStarts(errors.New("no"))
	r.accept()
	r.must(snapshot())
	file := a.File()
	defer file.Close()
	r.send(add("one"), file)
	r.waitStatus(enroll.Status{Pending: []enroll.Pod{{UID: "one"}}})
	r.must(del("one"))
	r.waitStatus(enroll.Status{Ready: true})
}

func TestNewConversationForgetsPendingPods(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.failStarts(errors.New("no"))
	r.accept()
	file := a.File()
	defer file.Close()
	r.send(add("one"), file)
	r.accept()
	r.must(snapshot())
	r.waitStatus(enroll.Status{Ready: true})
}

func TestNoNamespaceIsRefusedForGood(t *testing.T) {
	r := newRig(t)
	r.accept()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if text := r.send(add("one"), file); !strings.Contains(text, "not a namespace") {
		t.Errorf("acknowledged %q", text)
	}
	r.must(snapshot())
	r.waitStatus(enroll.Status{Ready: true})
}

// A bad packet is answered, then the client begins a new conversation.
func TestBadPackets(t *testing.T) {
	a := newNetns(t)
	one, two := a.File(), a.File()
	defer one.Close()
	defer two.Close()
	for _, test := range []struct {
		name   string
		packet []byte
		files  []*os.File
		want   string
	}{
		{"not a message", []byte("\xff\xff\xff"), nil, "no workload request"},
		{"unknown request", []byte("\x22\x00"), nil, "unknown kind"},
		{"nothing but a namespace", nil, []*os.File{one}, "unknown kind"},
		{"add without a namespace", encode(t, add("one")), nil, "one descriptor more, not 0"},
		{"add with two namespaces", encode(t, add("one")), []*os.File{one, two}, "one descriptor more, not 2"},
		{"del with a namespace", encode(t, del("one")), []*os.File{one}, "only an add"},
		{"snapshot with a namespace", encode(t, snapshot()), []*os.File{one}, "only an add"},
		{"larger than agreed", encode(t, del(strings.Repeat("x", 1100))), nil, "larger than 1024"},
		{"more descriptors than room", encode(t, add("one")), slices.Repeat([]*os.File{one}, 20), "too many descriptors"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := openFiles(t)
			r := newRig(t)
			r.accept()
			if text := r.raw(test.packet, test.files...); !strings.Contains(text, test.want) {
				t.Errorf("acknowledged %q, want %q", text, test.want)
			}
			r.hungUp()
			r.accept()
			r.must(snapshot())
			r.waitStatus(enroll.Status{Ready: true})
			r.cleanUp()
			r.eventually("all descriptors to be closed", func() bool { return openFiles(t) <= before })
		})
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A broken conversation can't be mended: the client answers and ends, so that the process begins anew.
func TestProtocolViolationsEndTheClient(t *testing.T) {
	without := func(change func(*zds.AddWorkload)) *zds.WorkloadRequest {
		request := add("one")
		change(request.GetAdd())
		return request
	}
	for name, requests := range map[string][]*zds.WorkloadRequest{
		"keep after the snapshot": {snapshot(), keep("one")},
		"second snapshot":         {snapshot(), snapshot()},
		"add without info":        {without(func(a *zds.AddWorkload) { a.WorkloadInfo = nil })},
		"add without uid":         {without(func(a *zds.AddWorkload) { a.Uid = "" })},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.accept()
			last := requests[len(requests)-1]
			r.must(requests[:len(requests)-1]...)
			var files []*os.File
			if last.GetAdd() != nil {
				files = append(files, newNetns(t).File())
				defer files[0].Close()
			}
			if text := r.send(last, files...); !strings.Contains(text, "protocol violation") {
				t.Errorf("acknowledged %q", text)
			}
			if err := r.wait(); err == nil || !strings.Contains(err.Error(), "protocol violation") {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestAgentThatIsNotThereYet(t *testing.T) {
	r := &rig{t: t, running: map[string]enroll.Pod{}, shared: map[string]socket.Given{}, ended: make(chan error, 1)}
	path := filepath.Join(t.TempDir(), "zds.sock")
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	tried := make(chan struct{}, 100)
	go func() {
		r.ended <- enroll.Run(ctx, enroll.Config{Socket: path, Start: r.start, Stop: r.stopPod, Share: r.share, Leave: r.leave, Log: slog.New(notify{slog.DiscardHandler, tried})})
	}()
	<-tried
	<-tried
	r.listen(path)
	defer r.cleanUp()
	r.accept()
	r.must(snapshot())
}

// notify is a log handler that tells of each line.
type notify struct {
	slog.Handler
	lines chan<- struct{}
}

func (n notify) Enabled(context.Context, slog.Level) bool { return true }

func (n notify) Handle(context.Context, slog.Record) error {
	select {
	case n.lines <- struct{}{}:
	default:
	}
	return nil
}

// An agent which hangs up at once must not make the client spin.
func TestAgentThatHangsUpIsGivenTime(t *testing.T) {
	r := newRig(t)
	r.accept()
	start := time.Now()
	for range 7 { // 5 ms, doubled each time, give or take a fifth: the waits sum up to more than half a second
		r.accept()
	}
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("seven times hung up on, it was back after %s in all", took)
	}
	select {
	case err := <-r.ended:
		t.Errorf("the client ended: %v", err)
	default:
	}
}

func TestLongErrorsFitAPacket(t *testing.T) {
	r, a := newRig(t), newNetns(t)
	r.failStarts(errors.New(strings.Repeat("ä", 2000)))
	r.accept()
	file := a.File()
	defer file.Close()
	if text := r.send(add("one"), file); !strings.HasSuffix(text, "ä…") || len(text) > 1000 {
		t.Errorf("acknowledged %d bytes, …%q", len(text), text[len(text)-10:])
	}
}

func TestStoppingLeavesPodsRunning(t *testing.T) {
	r := newRig(t)
	r.accept()
	r.mustAdd("one", newNetns(t))
	r.stop()
	if err := r.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if r.serving() != "one" || strings.Contains(r.did(), "stop") {
		t.Errorf("stopping the client stopped pods: %s", r.did())
	}
}
