package zds

import (
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// orphanTime is how long listeners are kept that nobody accepts on. Until then connections wait in their queues for the next
// proxy, then clients are refused rather than left hanging: a proxy that crashed and is started again after the longest of its
// first pauses (20 s) is in time, and few clients wait longer.
const orphanTime = 30 * time.Second

// keeper keeps the listeners of pods for the next proxy: those of the proxy that was last told of a pod.
type keeper struct {
	orphaned func(uid string) // hears of pods whose listeners were given up

	mu   sync.Mutex
	pods map[string]*kept // by uid
}

// kept is what is kept of one pod.
type kept struct {
	sockets socket.Given
	key     string
	serving map[*connection]string // what each proxy that serves the pod accepts on, as the key of sockets
	expiry  *time.Timer            // runs while nobody accepts on sockets
}

func newKeeper(orphaned func(uid string)) *keeper {
	return &keeper{orphaned: orphaned, pods: map[string]*kept{}}
}

// took notes that a proxy serves a pod, on these listeners, which it takes over. A proxy that hands nothing over has listeners
// of its own, beside which those of others would swallow connections.
func (k *keeper) took(uid string, by *connection, sockets socket.Given) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pod := k.pods[uid]
	if pod == nil {
		pod = &kept{serving: map[*connection]string{}}
		k.pods[uid] = pod
	}
	pod.release()
	pod.sockets, pod.key = sockets, sockets.Key()
	pod.serving[by] = pod.key
}

// served tells whether one of some proxies serves a pod.
func (k *keeper) served(uid string, by []*connection) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	pod := k.pods[uid]
	return pod != nil && slices.ContainsFunc(by, func(c *connection) bool { _, serves := pod.serving[c]; return serves })
}

// also notes that a proxy serves a pod that another does too, whose listeners are kept. Those that it hands over aren't needed.
func (k *keeper) also(uid string, by *connection, sockets socket.Given) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pod := k.pods[uid]; pod != nil {
		pod.serving[by] = sockets.Key()
	}
	sockets.Close()
}

// gone notes that a proxy is no more, and lists the pods of which only listeners of other proxies are left.
func (k *keeper) gone(proxy *connection) (left []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid, pod := range k.pods {
		key, served := pod.serving[proxy]
		delete(pod.serving, proxy)
		switch {
		case !served || key != pod.key || len(pod.sockets) == 0 || pod.served():
		case len(pod.serving) > 0:
			pod.release()
			left = append(left, uid)
		default:
			k.orphan(uid, pod)
		}
	}
	return left
}

// orphan gives listeners up after a while.
func (k *keeper) orphan(uid string, pod *kept) {
	var expiry *time.Timer
	expiry = time.AfterFunc(orphanTime, func() {
		k.mu.Lock()
		expired := pod.expiry == expiry
		if expired {
			pod.release()
		}
		k.mu.Unlock()
		if expired {
			k.orphaned(uid)
		}
	})
	pod.expiry = expiry
}

// offer duplicates a pod's listeners for a proxy.
func (k *keeper) offer(uid string) (socket.Given, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pod := k.pods[uid]; pod != nil {
		return pod.sockets.Copy()
	}
	return nil, nil
}

// drop closes what is kept of a pod.
func (k *keeper) drop(uid string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pod := k.pods[uid]; pod != nil {
		pod.release()
		delete(k.pods, uid)
	}
}

// close closes everything.
func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid, pod := range k.pods {
		pod.release()
		delete(k.pods, uid)
	}
}

// served tells whether a proxy accepts on the sockets.
func (p *kept) served() bool {
	for _, key := range p.serving {
		if key == p.key {
			return true
		}
	}
	return false
}

func (p *kept) release() {
	if p.expiry != nil {
		p.expiry.Stop()
		p.expiry = nil
	}
	p.sockets.Close()
	p.sockets = nil
}
