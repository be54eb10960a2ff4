package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/pods"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

const (
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 5 * time.Second
	moveInterval   = time.Second      // how often a pod's path is looked at
	attemptTimeout = 30 * time.Second // of enrolling and forgetting; un-enrolling has limits of its own
)

// wish is what should become of a pod.
type wish struct {
	pods.Decision
	path     string // of the network namespace; "" where unknown
	gone     bool   // the pod's object was deleted
	taken    bool   // gone, and another pod lives in its namespace now
	released socket.NetnsID
}

// worker keeps one pod as wished. Its loop does one thing at a time; a new wish interrupts it.
type worker struct {
	agent *Agent
	pod   pods.ID
	wake  chan struct{}

	// Guarded by agent.mu.
	wish      wish
	ips       []netip.Addr // of the pod, by its object, once it runs
	told      []netip.Addr // by the runtime, which is earlier
	asked     int          // counts wishes and questions
	interrupt func()       // ends the running attempt
	report    report
	reported  chan struct{} // closed and replaced with every report

	// The loop's own.
	ns    *socket.Netns
	at    string // path by which ns was opened
	known bool   // the proxy, the rules or the control plane may know the pod
}

// report is the outcome of the last attempt.
type report struct {
	answered int // the count of wishes and questions it has taken into account
	state    string
	since    time.Time
	retries  int
	err      error
	at       string // path at which the pod was found to live
}

const (
	stateOut         = "out"
	stateEnrolling   = "enrolling"
	stateEnrolled    = "enrolled"
	stateUnenrolling = "un-enrolling"
)

func newWorker(a *Agent, pod pods.ID) *worker {
	return &worker{
		agent: a, pod: pod, known: a.cfg.Left != nil && a.cfg.Left(pod), wake: make(chan struct{}, 1), interrupt: func() {},
		report: report{state: stateOut, since: time.Now()}, reported: make(chan struct{}),
	}
}

// setLocked gives the worker a wish. An attempt that follows another one is interrupted.
func (w *worker) setLocked(next wish) {
	next.released = w.wish.released
	if next == w.wish {
		return
	}
	w.wish = next
	w.asked++
	w.interrupt()
	w.wakeUp()
}

// runsAtLocked takes in the pod's addresses: who has some can be looked for. An object loses them when its pod has ended.
func (w *worker) runsAtLocked(ips []netip.Addr) {
	if len(ips) > 0 && !slices.Equal(ips, w.ips) {
		w.ips = ips
		w.wakeUp()
	}
}

// home is where the pod lives as far as is known.
func (w *worker) home() Home {
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	return Home{w.ns, slices.Concat(w.ips, w.told)}
}

// releaseLocked keeps the worker out of the namespace that the pod's path leads to now, until another word. It doesn't
// rely on what the worker has seen: it may be just about to look there for the first time.
func (w *worker) releaseLocked() {
	path := w.wish.path
	if path == "" {
		path = w.report.at
	}
	w.wish.released, _ = idAt(path) // what can't be looked at can't be opened
	w.told = nil
	w.interrupt()
	w.wakeUp()
}

// idAt returns the id of the namespace at a path; it is zero with an error.
func idAt(path string) (socket.NetnsID, error) {
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		return socket.NetnsID{}, err
	}
	return socket.NetnsID{Dev: uint64(stat.Dev), Ino: stat.Ino}, nil
}

func (w *worker) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default: // it's awake, or will be
	}
}

func (w *worker) run(ctx context.Context) {
	defer func() { w.ns.Close() }()
	retries := 0
	for {
		wish, asked, attempt, cancel := w.begin(ctx)
		done, err := w.attempt(attempt, wish)
		interrupted := attempt.Err() != nil && ctx.Err() == nil
		cancel()
		if ctx.Err() != nil {
			return
		}
		if done && w.agent.retire(w) {
			w.tell(wish, asked, 0, err)
			return
		}
		if retries++; err == nil || interrupted {
			retries = 0
		}
		if !interrupted {
			w.tell(wish, asked, retries, err)
		}
		if !w.rest(ctx, wish, w.pause(retries)) {
			return
		}
	}
}

// rest waits for the time of the next attempt, for being woken, or for another namespace under the pod. It returns
// false when ctx has ended.
func (w *worker) rest(ctx context.Context, wish wish, pause time.Duration) bool {
	timer, ticker := time.NewTimer(pause), time.NewTicker(moveInterval)
	defer timer.Stop()
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if w.moved(wish) {
				return true
			}
		case <-w.wake:
			return true
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// moved tells, at the price of one system call, whether the pod's path leads to another namespace than before.
func (w *worker) moved(wish wish) bool {
	path := wish.path
	if path == "" {
		path = w.at
	}
	here, err := idAt(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if here == wish.released {
		here = socket.NetnsID{}
	}
	return here != w.ns.ID()
}

func (w *worker) pause(retries int) time.Duration {
	if retries == 0 {
		return w.agent.cfg.Verify
	}
	return min(maxBackoff, minBackoff<<min(retries-1, 10))
}

// begin takes the wish, and makes the attempt interruptible by the next.
func (w *worker) begin(ctx context.Context) (wish, int, context.Context, context.CancelFunc) {
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	attempt, cancel := context.WithCancel(ctx)
	w.interrupt = cancel
	select {
	case <-w.wake: // whatever it was for, this attempt knows
	default:
	}
	return w.wish, w.asked, attempt, cancel
}

// tell publishes the outcome of an attempt to whoever waits for it.
func (w *worker) tell(wish wish, asked, retries int, err error) {
	state := stateOut
	switch {
	case wish.In && err == nil:
		state = stateEnrolled
	case wish.In:
		state = stateEnrolling
	case err != nil:
		state = stateUnenrolling
	}
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	last := w.report
	if err != nil && !errors.Is(err, errHomeless) && (last.err == nil || last.err.Error() != err.Error()) {
		w.agent.cfg.Log.Warn("pod isn't as it should be, will retry", "pod", w.pod.Key(), "state", state, "err", err)
		w.agent.notice(w.pod, reasons[state], err.Error()+"; it will be tried again")
	}
	next := report{answered: asked, state: state, since: last.since, retries: retries, err: err, at: w.at}
	if state != last.state {
		next.since = time.Now()
	}
	w.report = next
	close(w.reported)
	w.reported = make(chan struct{})
}

// reasons name failures for machines.
var reasons = map[string]string{stateEnrolling: "NotInMesh", stateUnenrolling: "StillInMesh", stateOut: "NotInMesh"}

// underway shows a state that lasts before there is an outcome to tell.
func (w *worker) underway(state string) {
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	if w.report.state != state && (state != stateEnrolling || w.report.state != stateEnrolled) {
		w.report.state, w.report.since = state, time.Now()
	}
}

func (w *worker) viewLocked() View {
	v := View{
		Pod: w.pod.Key(), UID: w.pod.UID, Netns: w.wish.path, Wanted: w.wish.In, Why: w.wish.Why, Ignored: w.wish.Ignored,
		State: w.report.state, Since: w.report.since, Retries: w.report.retries,
	}
	if v.Netns == "" {
		v.Netns = w.report.at
	}
	if w.report.err != nil {
		v.Error = w.report.err.Error()
	}
	return v
}

// adoptEarly is the first look at the pod, before the loop runs.
func (w *worker) adoptEarly() {
	w.agent.mu.Lock()
	wish := w.wish
	w.agent.mu.Unlock()
	if err := w.look(context.Background(), wish, true); err != nil {
		w.agent.cfg.Log.Warn("look at pod", "pod", w.pod.Key(), "err", err)
	}
}

// attempt does what the wish asks for. done means that nothing is left to do for a pod that is gone.
func (w *worker) attempt(ctx context.Context, wish wish) (done bool, err error) {
	if err := w.look(ctx, wish, !wish.In); err != nil { // Enrol adopts by itself
		return false, err
	}
	switch {
	case w.ns == nil && wish.In:
		return false, w.homeless(wish)
	case wish.In:
		w.known = true
		w.underway(stateEnrolling)
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		return false, w.agent.cfg.Actions.Enrol(ctx, w.pod, w.home(), wish.Capture)
	case w.known && wish.taken:
		return true, w.forget(ctx)
	case w.known && w.dying(wish):
		return false, nil // look forgets it once its namespace is gone
	case w.known:
		w.underway(stateUnenrolling)
		err := w.leave(ctx, wish)
		return wish.gone && err == nil, err
	}
	return wish.gone, nil
}

// dying tells that the pod hasn't left the mesh but ends, with its namespace. What says so isn't always true yet: whoever evicts or force-deletes
// a pod doesn't wait for its processes. They stay captured and served until there are none.
func (w *worker) dying(wish wish) bool { return wish.Ended || wish.gone && w.agent.cfg.Complete }

// leave un-enrols, and breaks off when the namespace goes away under it.
func (w *worker) leave(ctx context.Context, wish wish) error {
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.agent.cfg.Actions.Unenrol(watched, w.pod, w.home()) }()
	ticker := time.NewTicker(moveInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			w.known = w.known && err != nil
			return err
		case <-ticker.C:
			if w.moved(wish) {
				cancel()
				<-ended
				return w.look(ctx, wish, true)
			}
		}
	}
}

// errHomeless is that of a pod which lives nowhere yet. In a cluster, every pod begins like that.
var errHomeless = errors.New("it isn't enrolled before it has one")

func (w *worker) homeless(wish wish) error {
	switch {
	case wish.path != "":
		return fmt.Errorf("pod %s has no network namespace at %s yet: %w", w.pod.Key(), wish.path, errHomeless)
	case w.agent.cfg.Find != nil:
		return fmt.Errorf("pod %s has no network namespace yet: %w", w.pod.Key(), errHomeless)
	}
	return fmt.Errorf("where pod %s lives isn't known: annotate it with tulle.dev/netns=/run/netns/…", w.pod.Key())
}

// look makes ns the namespace that the pod lives in now, nil when there is none, and may adopt what it finds in a new one.
func (w *worker) look(ctx context.Context, wish wish, adopts bool) error {
	here, at, err := w.open(wish)
	if err != nil {
		return err
	}
	w.at = at
	if here != nil && w.ns != nil && here.ID() == w.ns.ID() {
		here.Close()
		return nil
	}
	w.ns.Close()
	w.ns = here
	if w.known && (here == nil || !wish.In) {
		if err := w.forget(ctx); err != nil {
			return err
		}
	}
	if here == nil || !adopts {
		return nil
	}
	found, err := w.agent.cfg.Actions.Adopt(w.pod, w.home(), wish.Capture, wish.In)
	w.known = w.known || found || err != nil
	return err
}

// open opens the pod's namespace, nil where there is none, and returns the path that leads to it: the one that somebody
// has said, or where it was found before, or where it is found now.
func (w *worker) open(wish wish) (*socket.Netns, string, error) {
	for _, path := range []string{wish.path, w.at} {
		ns, err := openUnless(path, wish.released)
		if err != nil || ns != nil && (path == wish.path || ns.ID() == w.ns.ID()) {
			return ns, path, err
		}
		ns.Close() // a process of another pod, by now
	}
	path, err := w.find()
	if path == "" || err != nil {
		return nil, "", err
	}
	ns, err := openUnless(path, wish.released)
	return ns, path, err
}

func (w *worker) find() (string, error) {
	w.agent.mu.Lock()
	ips := w.ips
	w.agent.mu.Unlock()
	if w.agent.cfg.Find == nil || len(ips) == 0 {
		return "", nil
	}
	return w.agent.cfg.Find(w.pod, ips)
}

// openUnless opens a namespace, nil where there is none or it is the released one.
func openUnless(path string, released socket.NetnsID) (*socket.Netns, error) {
	if path == "" {
		return nil, nil
	}
	ns, err := socket.OpenNetns(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if ns.ID() == released {
		ns.Close()
		return nil, nil
	}
	return ns, nil
}

func (w *worker) forget(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if err := w.agent.cfg.Actions.Forget(ctx, w.pod); err != nil {
		return err
	}
	w.known = false
	return nil
}

// States lists the values of View.State.
func States() []string {
	return []string{stateOut, stateEnrolling, stateEnrolled, stateUnenrolling}
}
