package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"testing"
)

// TestAControlPlaneThatEndsServesUntilItsProxiesAreElsewhere: what changes while they are sent away one by one mustn't wait for that.
func TestAControlPlaneThatEndsServesUntilItsProxiesAreElsewhere(t *testing.T) {
	w := newWorld(t)
	w.authorize()
	hook := freeAddr(t)
	w.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n" + installed(byDefault, hook) + "---\n" + pod("shop", "web", "n1", "10.0.0.1", true))
	old := w.replica("old", "--webhook-address", hook, "--drain-time", "4m") // nobody is sent away for a minute
	w.closed(byDefault)
	p := w.join(old, "n1").settled()
	p.workload(podName("shop", "web"), enrolled)

	if err := old.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.eventually("it to say that it ends", func(ctx context.Context) error {
		code, body, err := old.page(ctx, "/ready")
		if err == nil && code != http.StatusServiceUnavailable {
			err = fmt.Errorf("it is ready: %s", body)
		}
		return err
	})
	w.apply(pod("shop", "late", "n1", "10.0.0.2", true))
	p.workload(podName("shop", "late"), enrolled)
	w.refuses(fmt.Sprintf(wrongPolicy, ""), "denied the request")
	w.join(old, "n1").settled() // whose node hasn't heard of it yet
	w.eventually("others to lead", func(ctx context.Context) error {
		for _, election := range elections {
			if holder, err := w.holder(ctx, election); err != nil || holder == "old" {
				return fmt.Errorf("%s is held by %q: %v", election, holder, err)
			}
		}
		return nil
	})
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.streams > 0 {
		t.Errorf("the proxy was sent away at once: %v", p.last)
	}
	old.kill()
}
