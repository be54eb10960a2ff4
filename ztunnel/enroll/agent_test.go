package enroll_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/enroll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// rig is a running client with an agent that says exactly what a test tells it to.
type rig struct {
	t        *testing.T
	listener *net.UnixListener
	conn     *net.UnixConn
	stop     context.CancelFunc
	ended    chan error
	retry    time.Duration

	mu       sync.Mutex
	running  map[string]enroll.Pod
	shared   map[string]socket.Given // what pods listen on
	history  []string                // "start uid", "stop uid"
	fail     error                   // of the next starts
	statuses []enroll.Status
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRetryingRig(t, 0)
}

func newRetryingRig(t *testing.T, retry time.Duration) *rig {
	t.Helper()
	r := &rig{t: t, running: map[string]enroll.Pod{}, shared: map[string]socket.Given{}, ended: make(chan error, 1), retry: retry}
	path := filepath.Join(t.TempDir(), "zds.sock")
	r.listen(path)
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() {
		r.ended <- enroll.Run(ctx, enroll.Config{Socket: path, Start: r.start, Stop: r.stopPod, Share: r.share, Leave: r.leave, Status: r.status, Retry: r.retry, Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(r.cleanUp)
	return r
}

func (r *rig) listen(path string) {
	r.t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.listener = l
}

func (r *rig) cleanUp() {
	r.stop()
	r.wait()
	if r.conn != nil {
		r.conn.Close()
	}
	r.listener.Close()
	for _, pod := range r.running {
		pod.Netns.Close()
	}
	for _, given := range r.shared {
		given.Close()
	}
}

// wait returns how the client ended.
func (r *rig) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(patience):
		r.t.Error("the client doesn't end")
		return nil
	}
}

func (r *rig) start(pod enroll.Pod) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, "start "+pod.UID)
	if r.fail != nil {
		return r.fail
	}
	r.running[pod.UID] = pod
	if pod.Given != nil { // take all that is given
		r.shared[pod.UID].Close()
		r.shared[pod.UID] = maps.Clone(pod.Given)
		clear(pod.Given)
	}
	return nil
}

func (r *rig) share(uid string) (socket.Given, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shared[uid].Copy()
}

func (r *rig) leave(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, "leave "+uid)
}

func (r *rig) stopPod(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, "stop "+uid)
	r.running[uid].Netns.Close()
	r.shared[uid].Close()
	delete(r.running, uid)
}

func (r *rig) status(s enroll.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statuses = append(r.statuses, s)
}

func (r *rig) failStarts(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func (r *rig) pod(uid string) enroll.Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[uid]
}

// serving lists the uids of what runs.
func (r *rig) serving() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(r.running)), " ")
}

func (r *rig) did() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.history, ", ")
}

func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (r *rig) waitStatus(want enroll.Status) {
	r.t.Helper()
	r.eventually("status", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.statuses) == 0 {
			return false
		}
		got := r.statuses[len(r.statuses)-1]
		return got.Ready == want.Ready && got.Active == want.Active && slices.EqualFunc(got.Pending, want.Pending, func(a, b enroll.Pod) bool { return a.UID == b.UID })
	})
}

// accept takes the next connection and its hello.
func (r *rig) accept() {
	r.t.Helper()
	if r.conn != nil {
		r.conn.Close()
	}
	r.listener.SetDeadline(time.Now().Add(patience))
	conn, err := r.listener.AcceptUnix()
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
	hello := &zds.ZdsHello{}
	r.read(hello)
	if hello.GetVersion() != zds.Version_V1 || !hello.GetHandOver() || !hello.GetStopping() {
		r.t.Fatalf("hello says %v", hello)
	}
}

func (r *rig) read(into proto.Message) {
	r.t.Helper()
	r.conn.SetReadDeadline(time.Now().Add(patience))
	buffer := make([]byte, 1024)
	n, err := r.conn.Read(buffer)
	if err == nil {
		err = proto.Unmarshal(buffer[:n], into)
	}
	if err != nil {
		r.t.Fatalf("the agent reads: %v", err)
	}
}

// raw sends a packet with descriptors, and returns the acknowledgement's text.
func (r *rig) raw(packet []byte, files ...*os.File) string {
	r.t.Helper()
	if len(packet) == 0 {
		r.rawEmpty(files)
		return r.acknowledgement()
	}
	var fds []int
	for _, file := range files {
		fds = append(fds, int(file.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := r.conn.WriteMsgUnix(packet, rights, nil); err != nil {
		r.t.Fatal(err)
	}
	return r.acknowledgement()
}

// rawEmpty sends a packet of descriptors alone; the standard library would add a byte to it.
func (r *rig) rawEmpty(files []*os.File) {
	r.t.Helper()
	rights := unix.UnixRights(int(files[0].Fd()))
	header := &unix.Msghdr{Control: &rights[0]}
	header.SetControllen(len(rights))
	raw, err := r.conn.SyscallConn()
	if err != nil {
		r.t.Fatal(err)
	}
	var failed unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, failed = unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(header)), 0)
	})
	if err != nil || failed != 0 {
		r.t.Fatal(err, failed)
	}
}

func (r *rig) acknowledgement() string {
	r.t.Helper()
	response := &zds.WorkloadResponse{}
	r.read(response)
	if response.GetAck() == nil {
		r.t.Fatalf("answer without ack: %v", response)
	}
	return response.GetAck().GetError()
}

func (r *rig) send(request *zds.WorkloadRequest, files ...*os.File) string {
	r.t.Helper()
	return r.raw(encode(r.t, request), files...)
}

func encode(t testing.TB, request *zds.WorkloadRequest) []byte {
	t.Helper()
	packet, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// hungUp waits for the client to end the connection.
func (r *rig) hungUp() {
	r.t.Helper()
	r.conn.SetReadDeadline(time.Now().Add(patience))
	if n, err := r.conn.Read(make([]byte, 1024)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Fatalf("want the client to hang up, got %d bytes, %v", n, err)
	}
}

func add(uid string) *zds.WorkloadRequest {
	return &zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Add{Add: &zds.AddWorkload{
		Uid: uid, WorkloadInfo: &zds.WorkloadInfo{Name: "name-" + uid, Namespace: "demo", ServiceAccount: "account"},
	}}}
}

func del(uid string) *zds.WorkloadRequest {
	return &zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Del{Del: &zds.DelWorkload{Uid: uid}}}
}

func keep(uid string) *zds.WorkloadRequest {
	return &zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Keep{Keep: &zds.KeepWorkload{Uid: uid}}}
}

func snapshot() *zds.WorkloadRequest {
	return &zds.WorkloadRequest{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}}
}

// must sends requests that succeed.
func (r *rig) must(requests ...*zds.WorkloadRequest) {
	r.t.Helper()
	for _, request := range requests {
		if text := r.send(request); text != "" {
			r.t.Fatalf("%v is answered %q", request, text)
		}
	}
}

// mustAdd enrols a pod that lives in a namespace.
func (r *rig) mustAdd(uid string, n *netns.Namespace) {
	r.t.Helper()
	file := n.File()
	defer file.Close()
	if text := r.send(add(uid), file); text != "" {
		r.t.Fatalf("add %s is answered %q", uid, text)
	}
}

func newNetns(t *testing.T) *netns.Namespace { return netns.New(t, "tulle-enroll-test") }
