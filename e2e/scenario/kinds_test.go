package scenario

import (
	"context"
	_ "embed"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/kinds.yaml
var kinds string

const strictKinds = `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: kinds}, spec: {mtls: {mode: STRICT}}}`

func TestWorkloadsOfAllKinds(t *testing.T) {
	with(t, kinds)
	if err := rolledOut(t.Context(), "kinds", "statefulset/database"); err != nil {
		t.Fatal(err)
	}
	if err := settled(t.Context(), "kinds"); err != nil {
		t.Fatal(err)
	}
	t.Run("PodsOfAStatefulSetByTheirNames", func(t *testing.T) {
		for _, name := range []string{"database-0.database.kinds", "database-1.database.kinds", "database.kinds"} {
			counted(t, "meshed", "client", "http://"+name+":8080/", nodes[1], `reporter="destination"`, from("meshed", "client"), to("kinds", "database"), byTunnel)
		}
	})
	t.Run("AClientInTheNodesNetworkIsPlain", func(t *testing.T) {
		counted(t, "kinds", "on-the-node", "http://door.kinds/", nodes[1], `reporter="destination"`, fromNobody, `destination_workload="door"`, inPlain)
	})
	internal := map[string]string{}
	for _, node := range nodes[:2] {
		internal[node] = must(t, "get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	}
	ways := map[string]string{"host port": internal[nodes[1]] + ":18080", "node port": internal[nodes[1]] + ":30080", "node port of another node": internal[nodes[0]] + ":30080"}
	t.Run("FromOutsideByPortsOfNodes", func(t *testing.T) {
		ownNodes(t) // of others we don't know how to get there
		for way, addr := range ways {
			tallied(t, nodes[1], 1, []string{`reporter="destination"`, fromNobody, `destination_workload="door"`, inPlain}, func() {
				if answer, err := outside(t.Context(), addr, "/"); err != nil || !strings.HasPrefix(answer, "pod=door ") {
					t.Errorf("%s: %q %v", way, answer, err)
				}
			})
		}
	})
	t.Run("AJobThatEndsLeavesNothing", aJob)
	with(t, strictKinds)
	refused(t, "kinds", "on-the-node", "http://door.kinds/")
	t.Run("UnderStrictModeNobodyFromOutside", func(t *testing.T) {
		ownNodes(t)
		for way, addr := range ways {
			if answer, err := outside(t.Context(), addr, "/"); err == nil {
				t.Errorf("%s: answered %q", way, answer)
			}
		}
	})
	t.Run("UnderStrictModeExecAndPortForward", func(t *testing.T) {
		if answer, err := through(t.Context(), "kinds", "pod/door", 8080, "/"); err != nil || !strings.HasPrefix(answer, "pod=door ") {
			t.Errorf("port-forward to a pod: %q %v", answer, err)
		}
		if answer, err := through(t.Context(), "kinds", "service/door", 80, "/"); err != nil || !strings.HasPrefix(answer, "pod=door ") {
			t.Errorf("port-forward to a service: %q %v", answer, err)
		}
		if answer, err := ask(t.Context(), "kinds", "door", "http://127.0.0.1:8080/"); err != nil || !strings.HasPrefix(answer, "pod=door ") {
			t.Errorf("exec: %q %v", answer, err)
		}
		counted(t, "meshed", "client", "http://door.kinds/", nodes[1], `reporter="destination"`, from("meshed", "client"), to("kinds", "door"), byTunnel)
	})
}

const job = `
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: kinds}
spec:
  backoffLimit: 0
  template:
    spec:
      nodeName: FIRST
      restartPolicy: Never
      containers:
      - {name: app, image: "docker.io/tulle-mesh/app:dev", imagePullPolicy: IfNotPresent, args: [get, "http://app.meshed/"]}
`

// aJob makes a request as the first thing that its pod does.
func aJob(t *testing.T) {
	before := captured(t)
	tallied(t, nodes[1], 1, []string{`reporter="destination"`, from("kinds", "default"), to("meshed", "server"), byTunnel}, func() {
		with(t, job)
		must(t, "-n", "kinds", "wait", "--for=condition=Complete", "job/once", "--timeout=60s")
	})
	if addr := must(t, "-n", "kinds", "get", "pods", "-l", "job-name=once", "-o", "jsonpath={.items[*].status.podIP}"); addr == "" {
		t.Error("the job's pod has no address")
	}
	eventually(t, "nothing to be left of the job", func(context.Context) error {
		if after := captured(t); after != before {
			return fmt.Errorf("the agent has\n%s\nbefore the job it was\n%s", after, before)
		}
		return nil
	})
}

// captured is what the first node's agent has in the mesh, and how many pods have programs pinned there.
func captured(t *testing.T) string {
	t.Helper()
	table := must(t, "-n", system, "exec", agentOf(t.Context(), nodes[0]), "--", "/usr/local/bin/tulle-cni-agent", "status")
	var names []string
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "enrolled" {
			names = append(names, fields[0])
		}
	}
	slices.Sort(names)
	pins := "?"
	if !mesh.Given() {
		var err error
		if pins, err = onNode(t.Context(), 1, `ls /sys/fs/bpf/tulle-v1 2>/dev/null | wc -l`); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(names, " ") + " pins: " + pins
}

//go:embed testdata/opposite.yaml
var opposite string

func TestTwoNamespacesHaveOppositePolicies(t *testing.T) {
	t.Parallel()
	with(t, opposite)
	for _, namespace := range []string{"left", "right"} {
		if err := settled(t.Context(), namespace); err != nil {
			t.Fatal(err)
		}
	}
	counted(t, "left", "app", "http://app.right/", nodes[1], `reporter="destination"`, from("left", "default"), to("right", "default"), byTunnel)
	counted(t, "meshed", "client", "http://app.left/", nodes[0], `reporter="destination"`, from("meshed", "client"), to("left", "default"), byTunnel)
	refused(t, "right", "app", "http://app.left/")
	refused(t, "meshed", "client", "http://app.right/")
	refused(t, "plain", "server", "http://app.right/") // who has no identity isn't left
	if answer, err := ask(t.Context(), "plain", "server", "http://app.left/"); err != nil {
		t.Errorf("who has no identity isn't right: %q %v", answer, err)
	}
}

// deny stands for a network plugin that enforces a NetworkPolicy by which nobody may come to a pod, but the node itself: what comes from elsewhere
// is dropped, and from the node only what has one of the node's addresses, or that of probes.
const deny = `nft -f - <<-E
	table inet tulle-test {
		chain pods { type filter hook forward priority 0; ip daddr $1 ct state new drop; }
		chain node { type filter hook postrouting priority 200; oifname != "lo" ip daddr $1 ct state new ip saddr != { $2, 169.254.7.127 } drop; }
	}
E`

func TestProbesPassWhereANetworkPolicyLetsNobodyIn(t *testing.T) {
	ownNodes(t)
	addr := address(t, "meshed", "server")
	host := must(t, "get", "node", nodes[1], "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	for _, a := range []string{addr, host} {
		if _, err := netip.ParseAddr(a); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := onNode(context.Background(), 2, allow); err != nil {
			t.Error(err)
		}
	})
	if _, err := onNode(t.Context(), 2, deny, addr, host); err != nil {
		t.Fatal(err)
	}
	refused(t, "plain", "server", "http://"+addr+":8080/") // from the same node
	if answer, err := outside(t.Context(), addr+":8080", "/"); err == nil {
		t.Errorf("a client elsewhere is answered %q", answer)
	}
	const what = `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.containerStatuses[0].restartCount}`
	before := must(t, "-n", "meshed", "get", "pod", "server", "-o", what)
	for range 6 { // a pod that fails three probes, one a second, isn't ready and then restarted
		if now := must(t, "-n", "meshed", "get", "pod", "server", "-o", what); now != before || !strings.HasPrefix(now, "True ") {
			t.Fatalf("ready and restarts are %s, they were %s", now, before)
		}
		time.Sleep(time.Second)
	}
}
