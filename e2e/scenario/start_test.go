package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// conflist is where nodes of this machine's clusters have their network configuration.
const conflist = "/etc/cni/net.d/10-pods.conflist"

// withoutUs is the network configuration of the second node as its own plugin would write it.
func withoutUs(t *testing.T) string {
	t.Helper()
	text, err := onNode(t.Context(), 2, `cat "$1"`, conflist)
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	plugins := list["plugins"].([]any)
	list["plugins"] = slices.DeleteFunc(slices.Clone(plugins), func(p any) bool { return p.(map[string]any)["type"] == "tulle-cni" })
	if len(list["plugins"].([]any)) != len(plugins)-1 {
		t.Fatalf("the CNI plugin isn't once in %s", text)
	}
	own, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(own)
}

// agentOf is the name of a node's agent, "" if there is none.
func agentOf(ctx context.Context, node string) string {
	name, err := kubectl(ctx, "-n", system, "get", "pods", "-l", "k8s-app=istio-cni-node", "--field-selector=spec.nodeName="+node, "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return ""
	}
	return name
}

// anotherAgent replaces the second node's agent.
func anotherAgent(t *testing.T) {
	t.Helper()
	before := agentOf(context.WithoutCancel(t.Context()), nodes[1])
	must(t, "-n", system, "delete", "pod", before, "--wait=false")
	eventually(t, "another agent", func(ctx context.Context) error {
		if now := agentOf(ctx, nodes[1]); now == "" || strings.Contains(now, before) {
			return fmt.Errorf("there is %q", now)
		}
		return nil
	})
}

// agentIsReady waits until the second node's agent is.
func agentIsReady(t *testing.T) {
	t.Helper()
	eventually(t, "the agent", func(ctx context.Context) error {
		ready, err := kubectl(ctx, "-n", system, "get", "pod", agentOf(ctx, nodes[1]), "-o", "jsonpath={.status.containerStatuses[0].ready}")
		if err == nil && ready != "true" {
			err = errors.New("it is ready: " + ready)
		}
		return err
	})
}

const early = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: meshed, labels: {app: NAME}}
spec:
  WHERE
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: docker.io/tulle-mesh/app:dev
    imagePullPolicy: IfNotPresent
    args: [serve]
`

// A node boots, its network plugin writes its configuration anew, and the agent comes late.
func TestPodsThatComeBeforeTheAgentAreInTheMeshOnceItIsThere(t *testing.T) {
	ownNodes(t)
	pod := func(name, where string) string {
		return strings.NewReplacer("NAME", name, "WHERE", where).Replace(early)
	}
	state := func(ctx context.Context, name string) string {
		text, err := kubectl(ctx, "-n", "meshed", "get", "pod", name, "-o", `jsonpath={.status.phase} {.metadata.annotations.ambient\.istio\.io/redirection}`)
		return strings.TrimSpace(fmt.Sprint(text, errorText(err)))
	}
	rewritten := withoutUs(t)
	onlyWhere(t, fmt.Sprintf(`{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"NotIn","values":[%q]}]}]}}}`, nodes[1]))
	t.Cleanup(func() { onlyWhere(t, "null"); agentIsReady(t) })
	eventually(t, "the agent to go", func(ctx context.Context) error {
		if name := agentOf(ctx, nodes[1]); name != "" {
			return errors.New(name + " is there")
		}
		return nil
	})

	// While the plugin is installed, no pod starts without the agent.
	with(t, pod("held", "nodeName: SECOND"))
	eventually(t, "the runtime to try", func(ctx context.Context) error {
		events, err := kubectl(ctx, "-n", "meshed", "get", "events", "--field-selector=involvedObject.name=held,reason=FailedCreatePodSandBox", "-o", "name")
		if err == nil && events == "" {
			err = errors.New("it didn't")
		}
		return err
	})
	if got := state(t.Context(), "held"); got != "Pending" {
		t.Errorf("a pod without an agent is %s", got)
	}

	// Where it isn't any more, pods that the taint keeps off wait, and others start outside of the mesh.
	if _, err := onNode(t.Context(), 2, `printf %s "$2" >"$1"`, conflist, rewritten); err != nil {
		t.Fatal(err)
	}
	must(t, "taint", "node", nodes[1], "cni.istio.io/not-ready=:NoSchedule")
	with(t, pod("early", "nodeName: SECOND"))
	with(t, pod("waiting", "nodeSelector: {kubernetes.io/hostname: SECOND}"))
	eventually(t, "the early pod to run", func(ctx context.Context) error {
		if got := state(ctx, "early"); got != "Running" {
			return errors.New("it is " + got)
		}
		return nil
	})
	if got := state(t.Context(), "waiting"); got != "Pending" {
		t.Errorf("a pod is %s on a node that has the taint", got)
	}

	onlyWhere(t, "null")
	agentIsReady(t)
	began := time.Now()
	for _, name := range []string{"early", "waiting", "held"} {
		eventually(t, name+" to be in the mesh", func(ctx context.Context) error {
			if got := state(ctx, name); got != "Running enabled" {
				return errors.New("it is " + got)
			}
			return nil
		})
		t.Logf("%s is in the mesh %s after the agent is ready", name, time.Since(began).Round(time.Second/10))
		counted(t, "meshed", "client", "http://"+address(t, "meshed", name)+":8080/", nodes[0], from("meshed", "client"), to("meshed", "default"), byTunnel)
		counted(t, "meshed", name, "http://app.meshed/", nodes[1], `reporter="source"`, from("meshed", "default"), to("meshed", "server"), byTunnel)
	}
	if got := must(t, "get", "node", nodes[1], "-o", `jsonpath={.spec.taints[?(@.key=="cni.istio.io/not-ready")].key}`); got != "" {
		t.Errorf("the node still has the taint %s", got)
	}
	if now, err := onNode(t.Context(), 2, `cat "$1"`, conflist); err != nil || !strings.Contains(now, "tulle-cni") {
		t.Errorf("the network configuration is %s (%v)", now, err)
	}
}

// onlyWhere changes on which nodes the agent runs.
func onlyWhere(t *testing.T, affinity string) {
	t.Helper()
	must(t, "-n", system, "patch", "daemonset", "istio-cni-node", "--patch", `{"spec":{"template":{"spec":{"affinity":`+affinity+`}}}}`)
	if err := rolledOut(context.WithoutCancel(t.Context()), system, "daemonset/istio-cni-node"); err != nil {
		t.Fatal(err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// address is a pod's.
func address(t *testing.T, namespace, pod string) string {
	t.Helper()
	return must(t, "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
}
