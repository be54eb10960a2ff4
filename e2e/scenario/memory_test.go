package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// exhaust leaves the container of a node's process 16 MB beside what it has, and takes 64 there. The kernel kills the process then, of which
// it is told that it is the least dear, and that is over when it is gone. Groups of versions 1 and 2 call the limit by different names.
const exhaust = `set -e
	for p in /proc/[0-9]*; do if [ "$(cat $p/comm 2>/dev/null)" = "$1" ]; then pid="${p#/proc/}"; fi; done
	container="$(sed -n 's|.*/||p' /proc/$pid/cgroup | grep -x '[0-9a-f]\{64\}' | head -n1)"
	limit="$(find /sys/fs/cgroup -path "*/$container/memory.limit_in_bytes" -o -path "*/$container/memory.max" | head -n1)"
	group="${limit%/*}"
	echo 1000 >/proc/$pid/oom_score_adj
	echo $(($(cat $group/memory.usage_in_bytes $group/memory.current 2>/dev/null) + 16777216)) >$limit
	sh -c 'echo $$ >"$0/cgroup.procs"; exec dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null' $group || true
	for i in $(seq 1000); do [ -e /proc/$pid ] || break; sleep 0.01; done`

// As one that is killed otherwise: what it carried is cut, and new connections wait for the next.
func TestAZtunnelThatRunsOutOfMemoryLosesOnlyWhatItCarried(t *testing.T) {
	ownNodes(t)
	var killed time.Time
	result := underLoad(t, func(ctx context.Context) {
		pod, err := ztunnelOf(ctx, nodes[1])
		if err != nil {
			t.Fatal(err)
		}
		const how = `jsonpath={.restartCount} {.lastState.terminated.reason} {.lastState.terminated.exitCode} {.ready}`
		state := strings.ReplaceAll(how, "{.", "{.status.containerStatuses[0].")
		var restarts int
		before := must(t, "-n", system, "get", "pod", pod, "-o", state)
		if _, err := fmt.Sscan(before, &restarts); err != nil {
			t.Fatal(before, err)
		}
		if _, err := onNode(ctx, 2, exhaust, "ztunnel"); err != nil {
			t.Fatal(err)
		}
		killed = time.Now()
		eventually(t, "the next ztunnel", func(ctx context.Context) error {
			after, err := kubectl(ctx, "-n", system, "get", "pod", pod, "-o", state)
			if want := fmt.Sprint(restarts+1, " OOMKilled 137 true"); err == nil && after != want {
				err = fmt.Errorf("restarts, reason, code and readiness are %q, want %q", after, want)
			}
			return err
		})
	})
	for _, failure := range result.Failures {
		if failure.Began.After(killed) {
			t.Errorf("a request that began %s after the kill failed: %+v", failure.Began.Sub(killed), failure)
		}
	}
	if result.Failed > len(result.Failures) {
		t.Errorf("%d requests failed", result.Failed)
	}
	counted(t, "busy", "client", busy, nodes[0], `reporter="source"`, from("busy", "client"), to("busy", "server"), byTunnel)
}
