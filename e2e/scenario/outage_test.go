package scenario

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

// away is how long the API server can't be reached: longer than any wait for an answer, and than nodes that aren't heard of count as ready.
const away = time.Minute

// On the first node runs the API server; this refuses whoever connects to it, and cuts those who have.
const (
	refuseAPI = `nft -f - <<-E
		table inet tulle-test { chain in { type filter hook input priority -200; tcp dport 6443 reject with tcp reset; }; }
	E`
	allow = `nft delete table inet tulle-test`
)

func TestTheAPIServerIsAwayAndTrafficFlows(t *testing.T) {
	ownNodes(t)
	loseNothing(t, func(ctx context.Context) {
		if _, err := onNode(ctx, 1, refuseAPI); err != nil {
			t.Fatal(err)
		}
		time.Sleep(away)
		_, err := kubectl(ctx, "get", "--raw", "/readyz", "--request-timeout=1s")
		if _, again := onNode(context.WithoutCancel(ctx), 1, allow); again != nil {
			t.Fatal(again)
		}
		if err == nil {
			t.Error("the API server isn't away")
		}
		eventually(t, "the API server", func(ctx context.Context) error {
			_, err := kubectl(ctx, "get", "--raw", "/readyz")
			return err
		})
		restarted(t, "busy", "deployment/server") // of which ztunnel hears, or it would ask those that are gone
	})
	// And what is changed afterwards is heard of.
	with(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: nobody, namespace: meshed}, spec: {}}`)
	refused(t, "meshed", "client", "http://app.meshed/")
}

// kill ends the processes of a name as the kernel does when memory runs out, and says for each when it was gone, in nanoseconds since 1970.
// Before that, it may still have taken a connection.
const kill = `for p in /proc/[0-9]*; do
	[ "$(cat $p/comm 2>/dev/null)" = "$1" ] && kill -9 "${p#/proc/}" || continue
	for i in $(seq 1000); do [ -e $p ] || break; sleep 0.01; done
	date +%s%N
done`

// New connections wait for the next ztunnel; only those that the dead one carried are cut.
func TestAZtunnelThatIsKilledLosesOnlyWhatItCarried(t *testing.T) {
	ownNodes(t)
	for node := 1; node <= 2; node++ {
		var killed time.Time
		result := underLoad(t, func(ctx context.Context) {
			pod, err := ztunnelOf(ctx, nodes[node-1])
			if err != nil {
				t.Fatal(err)
			}
			restarts := []string{"-n", system, "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}"}
			before := must(t, restarts...)
			gone, err := onNode(ctx, node, kill, "ztunnel")
			at, invalid := strconv.ParseInt(gone, 10, 64) // fails as well if there were two
			if err := cmp.Or(err, invalid); err != nil {
				t.Fatalf("one process of ztunnel should have been killed: %v", err)
			}
			killed = time.Unix(0, at)
			eventually(t, "the next ztunnel", func(ctx context.Context) error {
				after, err := kubectl(ctx, restarts...)
				if err == nil && (after == before || !strings.HasSuffix(after, " true")) {
					err = errors.New("restarts and readiness are " + after)
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
	}
	counted(t, "busy", "client", busy, nodes[0], `reporter="source"`, from("busy", "client"), to("busy", "server"), byTunnel)
}

// fill puts a small file system in the place of a node's network configuration, with $2 in the file $1 and no room for anything else. An agent
// sees it that starts afterwards.
const (
	fill = `set -e; mount -t tmpfs -o size=64k,mode=755 tmpfs "${1%/*}"; printf %s "$2" >"$1"
		dd if=/dev/zero of="${1%/*}/filler" bs=4k 2>/dev/null || true`
	makeRoom = `rm "${1%/*}/filler"`
	empty    = `umount "${1%/*}"`
)

func TestAFullDiskBreaksNothing(t *testing.T) {
	ownNodes(t)
	rewritten := withoutUs(t)
	t.Cleanup(func() {
		if _, err := onNode(context.Background(), 2, empty, conflist); err != nil {
			t.Error(err)
		}
		anotherAgent(t)
		agentIsReady(t)
	})
	loseNothing(t, func(ctx context.Context) {
		if _, err := onNode(ctx, 2, fill, conflist, rewritten); err != nil {
			t.Fatal(err)
		}
		anotherAgent(t)
		eventually(t, "the agent to complain", func(ctx context.Context) error {
			log, err := kubectl(ctx, "-n", system, "logs", agentOf(ctx, nodes[1]))
			if err == nil && !strings.Contains(log, "no space left on device") {
				err = errors.New("it says " + log)
			}
			return err
		})
		if ready := must(t, "-n", system, "get", "pod", agentOf(ctx, nodes[1]), "-o", "jsonpath={.status.containerStatuses[0].ready}"); ready != "false" {
			t.Errorf("an agent that can't install the plugin is ready: %s", ready)
		}
		if now, err := onNode(ctx, 2, `cat "$1"`, conflist); err != nil || now != rewritten {
			t.Errorf("the network configuration was\n%s\nand is\n%s (%v)", rewritten, now, err)
		}
		if _, err := onNode(ctx, 2, makeRoom, conflist); err != nil {
			t.Fatal(err)
		}
		agentIsReady(t)
	})
}
