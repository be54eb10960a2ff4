// Package enroll takes pods into the mesh and out of it, in the order in which no connection is lost.
//
// In:  the proxy opens its listeners in the pod → it acknowledges → the node's probes pass → rules → capture is on → the state is published.
// Out: the state is withdrawn → peers get time to notice → no new captures → live captured connections end, bounded →
// the proxy leaves → the rules are removed → the node's probes are as all others.
//
// Every step is idempotent, so either way can be abandoned half-way for the other.
package enroll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/cni-plugin/zds"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/status"
)

// Pod is what is enrolled: a workload living in a network namespace.
type Pod struct {
	zds.Workload
	Netns *socket.Netns // stays the caller's
	IPs   []netip.Addr  // as far as they are known yet
	How   redirect.How  // it is captured once it's in
}

// Key is how the pod is published and logged.
func (p Pod) Key() string { return p.Namespace + "/" + p.Name }

// Published is where others read which pods are enrolled. Its calls return when readers can see the change.
type Published interface {
	Set(Pod, status.State) error
	// Remove withdraws a pod's state, unless it's already that of a newer pod with the same name.
	Remove(Pod) error
	// Enabled tells whether the pod, and not one of the same name, is published as enabled.
	Enabled(Pod) bool
	// Said is what is published of the pod, be it by an earlier agent; "" is nothing.
	Said(Pod) status.State
	// Keep leaves what an earlier agent has published of the pod as it is.
	Keep(Pod) error
}

// Config has an Enroller's parts. All are required but Repaired, the durations may be zero.
type Config struct {
	Proxies  *zds.Server
	Redirect *redirect.Engines
	Probes   *redirect.Probes
	Statuses Published
	Log      *slog.Logger
	// WithdrawGrace is how long peers have to notice a withdrawn state before captures stop.
	WithdrawGrace time.Duration
	// DrainTimeout bounds the wait for captured connections to end; what is left then is cut.
	DrainTimeout time.Duration
	// Repaired is told of a pod that was in, and whose redirection somebody had changed; nil where nobody listens.
	Repaired func(pod Pod, found redirect.Found)
}

// Enroller enrols and un-enrols. Calls for different pods may overlap, those for one pod must not.
type Enroller struct {
	cfg Config
}

// New makes an Enroller.
func New(cfg Config) *Enroller { return &Enroller{cfg: cfg} }

const (
	drainPoll = 250 * time.Millisecond
	// proxyDeadline bounds what is asked of proxies; the protocol's own deadline is shorter, but several may wait in line.
	proxyDeadline = 20 * time.Second
)

// Adopt takes over what an earlier agent left in the pod's namespace, whatever that agent published: if there is
// anything of ours, the proxies will be told of the pod in their next snapshot, without which they'd cut its
// connections; and if all is in place and the pod is still wanted, it's enabled, but for a proxy that is there already and
// has to be told by Enrol. It tells whether there was anything.
func (e *Enroller) Adopt(pod Pod, wanted bool) (bool, error) {
	found, err := e.cfg.Redirect.Current(pod.Netns)
	if err != nil {
		return false, err
	}
	return found.State != redirect.Removed, e.adopt(pod, found, wanted)
}

func (e *Enroller) adopt(pod Pod, found redirect.Found, wanted bool) error {
	if found.State == redirect.Removed && wanted {
		return e.cfg.Statuses.Keep(pod)
	}
	if found.State == redirect.Removed {
		return nil
	}
	file, err := netnsFile(pod.Netns)
	if err != nil {
		return err
	}
	e.cfg.Proxies.Register(pod.Workload, file)
	if err := e.cfg.Probes.Exempt(pod.UID, pod.IPs); err != nil {
		return err
	}
	if wanted && found.Captures() && e.cfg.Proxies.Served(pod.UID) {
		return e.cfg.Statuses.Set(pod, status.Enabled)
	}
	return nil
}

// Enrol takes the pod in. It may be repeated: after errors, as a check of pods that are in, and to call off an Unenrol
// that was abandoned. While no proxy takes the pod it's published as pending, unless it was enabled, as before its node's restart:
// peers would say in plain text what they have said by tunnels. That these fail meanwhile is better.
func (e *Enroller) Enrol(ctx context.Context, pod Pod) error {
	log := e.cfg.Log.With("pod", pod.Key())
	seen, err := e.cfg.Redirect.Look(pod.Netns)
	if err != nil {
		return fmt.Errorf("enrol pod %s: %w", pod.Key(), err)
	}
	defer seen.Close()
	before := seen.Found()
	if !e.cfg.Proxies.Knows(pod.UID) {
		if err := e.adopt(pod, before, true); err != nil {
			return fmt.Errorf("enrol pod %s: %w", pod.Key(), err)
		}
	}
	refused := e.cfg.Proxies.Refused(pod.UID)
	damaged := !before.Captures() && e.cfg.Statuses.Enabled(pod)
	if in, err := e.isIn(pod, seen); in || err != nil {
		return err
	}
	unserved := !before.Captures() || refused
	now, err := e.takeIn(ctx, pod, seen)
	if err != nil {
		if unserved && e.cfg.Statuses.Said(pod) != status.Enabled {
			err = errors.Join(err, e.cfg.Statuses.Set(pod, status.Pending))
		}
		return fmt.Errorf("enrol pod %s: %w", pod.Key(), err)
	}
	if err := e.cfg.Statuses.Set(pod, status.Enabled); err != nil {
		return fmt.Errorf("enrol pod %s: %w", pod.Key(), err)
	}
	log.Debug("step", "step", "published enabled")
	if damaged {
		log.Warn("pod was captured no more, and is again: somebody has changed its network namespace", "found", before)
		if e.cfg.Repaired != nil {
			e.cfg.Repaired(pod, before)
		}
	}
	if !before.Captures() {
		log.Info("pod enrolled", "engine", now.Engine)
	}
	return nil
}

// takeIn has the proxy serve the pod, and then its connections go there.
func (e *Enroller) takeIn(ctx context.Context, pod Pod, seen *redirect.Sight) (redirect.Found, error) {
	log := e.cfg.Log.With("pod", pod.Key())
	file, err := netnsFile(pod.Netns)
	if err != nil {
		return redirect.Found{}, err
	}
	if err := e.add(ctx, pod, file); err != nil {
		return redirect.Found{}, err
	}
	log.Debug("step", "step", "proxy acknowledged")
	now, err := e.capture(pod, seen)
	if err != nil {
		e.undo(ctx, pod, seen.Found().State)
		return redirect.Found{}, err
	}
	log.Debug("step", "step", "capture on")
	return now, nil
}

// isIn tells that nothing is left to do. While no proxy is connected, its listeners aren't looked at.
func (e *Enroller) isIn(pod Pod, seen *redirect.Sight) (bool, error) {
	before := seen.Found()
	if before.State != redirect.Capture || before.How != pod.How || !e.cfg.Proxies.Served(pod.UID) || !e.cfg.Statuses.Enabled(pod) {
		return false, nil
	}
	if err := e.cfg.Probes.Exempt(pod.UID, pod.IPs); err != nil { // they may have been unknown before
		return false, err
	}
	if e.cfg.Proxies.Connected() == 0 {
		return true, nil
	}
	desired, err := e.desired(pod)
	if err != nil {
		return false, err
	}
	defer desired.Listeners.Close()
	met, err := seen.Met(desired)
	if err != nil {
		return false, fmt.Errorf("check pod %s: %w", pod.Key(), err)
	}
	return met, nil
}

// desired is the redirection of a pod that is in, with listeners that the caller closes.
func (e *Enroller) desired(pod Pod) (redirect.Desired, error) {
	listeners, err := e.cfg.Proxies.Listeners(pod.UID)
	if err != nil {
		return redirect.Desired{}, fmt.Errorf("the proxy's listeners in pod %s: %w", pod.Key(), err)
	}
	return redirect.Desired{State: redirect.Capture, How: pod.How, Listeners: listeners}, nil
}

// capture has connections captured, but none of the kubelet's that comes meanwhile.
func (e *Enroller) capture(pod Pod, seen *redirect.Sight) (redirect.Found, error) {
	if err := e.cfg.Probes.Exempt(pod.UID, pod.IPs); err != nil {
		return redirect.Found{}, err
	}
	e.cfg.Log.Debug("step", "pod", pod.Key(), "step", "probes pass")
	desired, err := e.desired(pod)
	if err != nil {
		return redirect.Found{}, err
	}
	defer desired.Listeners.Close()
	return seen.Set(desired)
}

// undo takes a pod back from the proxy whose rules failed, unless it was served before and has connections to lose.
func (e *Enroller) undo(ctx context.Context, pod Pod, before redirect.State) {
	if before != redirect.Removed {
		return
	}
	err := errors.Join(e.cfg.Redirect.Set(pod.Netns, redirect.Desired{}), e.cfg.Probes.Release(pod.UID), e.del(context.WithoutCancel(ctx), pod))
	if err != nil {
		e.cfg.Log.Warn("undo a failed enrolment; it will be retried", "pod", pod.Key(), "err", err)
	}
}

// Unenrol takes a living pod out. When ctx ends half-way the pod is left serving, for Enrol or another Unenrol.
func (e *Enroller) Unenrol(ctx context.Context, pod Pod) error {
	log := e.cfg.Log.With("pod", pod.Key())
	found, err := e.cfg.Redirect.Current(pod.Netns)
	if err != nil {
		return fmt.Errorf("un-enrol pod %s: %w", pod.Key(), err)
	}
	if err := e.cfg.Statuses.Remove(pod); err != nil {
		return fmt.Errorf("un-enrol pod %s: %w", pod.Key(), err)
	}
	log.Debug("step", "step", "published withdrawn")
	if found.State != redirect.Removed {
		if err := e.drain(ctx, pod, found.State); err != nil {
			return fmt.Errorf("un-enrol pod %s: %w", pod.Key(), err)
		}
	}
	if err := e.del(ctx, pod); err != nil {
		return fmt.Errorf("un-enrol pod %s: %w", pod.Key(), err)
	}
	log.Debug("step", "step", "proxy left")
	if err := e.cfg.Redirect.Set(pod.Netns, redirect.Desired{}); err != nil {
		return fmt.Errorf("un-enrol pod %s: %w", pod.Key(), err)
	}
	log.Debug("step", "step", "rules removed")
	if err := e.cfg.Probes.Release(pod.UID); err != nil {
		return fmt.Errorf("un-enrol pod %s: %w", pod.Key(), err)
	}
	log.Debug("step", "step", "probes pass no more")
	if found.State != redirect.Removed {
		log.Info("pod un-enrolled")
	}
	return nil
}

// drain stops new captures and waits for the live ones.
func (e *Enroller) drain(ctx context.Context, pod Pod, state redirect.State) error {
	log := e.cfg.Log.With("pod", pod.Key())
	if state != redirect.Draining {
		if err := wait(ctx, e.cfg.WithdrawGrace); err != nil {
			return err
		}
		log.Debug("step", "step", "peers had time")
		if err := e.cfg.Redirect.Set(pod.Netns, redirect.Desired{State: redirect.Draining}); err != nil {
			return err
		}
		log.Debug("step", "step", "capture off")
	}
	left, err := e.waitForConnections(ctx, pod)
	if err != nil {
		return err
	}
	if left > 0 {
		log.Warn("captured connections outlived the drain timeout and are cut", "connections", left, "timeout", e.cfg.DrainTimeout)
	}
	log.Debug("step", "step", "drained")
	return nil
}

// waitForConnections returns how many are left: zero, found twice running because one may be just changing hands, or
// more after the timeout.
func (e *Enroller) waitForConnections(ctx context.Context, pod Pod) (int, error) {
	deadline := time.Now().Add(e.cfg.DrainTimeout)
	idle := 0
	for {
		live, err := redirect.Connections(pod.Netns)
		if err != nil {
			return 0, err
		}
		if idle++; live > 0 {
			idle = 0
		}
		if idle == 2 || !time.Now().Before(deadline) {
			return live, nil
		}
		if err := wait(ctx, min(drainPoll, max(0, time.Until(deadline)))); err != nil {
			return live, err
		}
	}
}

// Forget drops a pod whose namespace is gone.
func (e *Enroller) Forget(ctx context.Context, pod Pod) error {
	if err := e.cfg.Statuses.Remove(pod); err != nil {
		return fmt.Errorf("forget pod %s: %w", pod.Key(), err)
	}
	if err := errors.Join(e.cfg.Probes.Release(pod.UID), e.del(ctx, pod)); err != nil {
		return fmt.Errorf("forget pod %s: %w", pod.Key(), err)
	}
	e.cfg.Log.Info("pod gone", "pod", pod.Key())
	return nil
}

func (e *Enroller) add(ctx context.Context, pod Pod, netns *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, proxyDeadline)
	defer cancel()
	return e.cfg.Proxies.Add(ctx, pod.Workload, netns)
}

func (e *Enroller) del(ctx context.Context, pod Pod) error {
	ctx, cancel := context.WithTimeout(ctx, proxyDeadline)
	defer cancel()
	return e.cfg.Proxies.Del(ctx, pod.UID)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// netnsFile opens the namespace once more, for the proxy server to keep.
func netnsFile(ns *socket.Netns) (*os.File, error) {
	var file *os.File
	err := ns.Do(func() (err error) {
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the pod's network namespace: %w", err)
	}
	return file, nil
}
