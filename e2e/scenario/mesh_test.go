package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	fromClient = `source_principal="spiffe://cluster.local/ns/meshed/sa/client"`
	toServer   = `destination_principal="spiffe://cluster.local/ns/meshed/sa/server"`
	byTunnel   = `connection_security_policy="mutual_tls"`
	inPlain    = `connection_security_policy="unknown"`
)

// counted makes requests, and waits until a node's ztunnel has counted as many more connections with the labels.
func counted(t *testing.T, namespace, pod, url, node string, labels ...string) {
	t.Helper()
	before, err := opened(t.Context(), node, labels...)
	if err != nil {
		t.Fatal(err)
	}
	const requests = 3
	for range requests {
		if answer, err := ask(t.Context(), namespace, pod, url); err != nil || !strings.HasPrefix(answer, "pod=server ") {
			t.Fatalf("%s/%s asks %s: %q %v", namespace, pod, url, answer, err)
		}
	}
	eventually(t, "ztunnel's metrics", func(ctx context.Context) error {
		after, err := opened(ctx, node, labels...)
		if err == nil && after != before+requests {
			err = fmt.Errorf("ztunnel on %s has counted %d connections with %q, want %d", node, after-before, labels, requests)
		}
		return err
	})
}

func TestMeshedPodsOnTwoNodesTalkThroughTunnelsByTheirIdentities(t *testing.T) {
	for _, node := range nodes[:2] { // the client's and the server's
		counted(t, "meshed", "client", "http://app.meshed/", node, fromClient, toServer, byTunnel)
	}
}

func TestAppsSeeTheirClientsOwnAddresses(t *testing.T) {
	addr, err := kubectl(t.Context(), "-n", "meshed", "get", "pod", "client", "-o", "jsonpath={.status.podIP}")
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := ask(t.Context(), "meshed", "client", "http://app.meshed/"); err != nil || !strings.Contains(answer, "from="+addr+":") {
		t.Errorf("%q %v, want it from %s", answer, err, addr)
	}
}

func TestAPodWithoutTheLabelIsPlain(t *testing.T) {
	state, err := kubectl(t.Context(), "-n", "plain", "get", "pod", "server", "-o", `jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}`)
	if err != nil || state != "" {
		t.Errorf("the agent says of it %q %v", state, err)
	}
	const nobody = `source_principal="unknown"`
	counted(t, "meshed", "client", "http://app.plain/", nodes[0],
		nobody, `source_workload="client"`, `destination_service="app.plain.svc.cluster.local"`, inPlain)
	counted(t, "plain", "server", "http://app.meshed/", nodes[1],
		nobody, `source_workload="server"`, `destination_service="app.meshed.svc.cluster.local"`, inPlain)
}

// Probes come once a second. A pod that failed three would be restarted.
func TestKubeletsProbesOfMeshedPodsPass(t *testing.T) {
	ready := func() string {
		const what = `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.containerStatuses[0].restartCount} {end}`
		out, err := kubectl(t.Context(), "-n", "meshed", "get", "pods", "-o", what)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const want = "client True 0 server True 0 "
	for range 5 {
		if got := ready(); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		time.Sleep(time.Second)
	}
}

func TestANodeThatRebootsHasItsPodsInTheMeshAgain(t *testing.T) {
	if mesh.Given() {
		t.Skip("the nodes of a cluster that was given aren't ours to stop")
	}
	if err := mesh.Stop(2); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := mesh.Boot(ctx, 2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server to answer again", func(ctx context.Context) error {
		_, err := ask(ctx, "meshed", "client", "http://app.meshed/")
		return err
	})
	eventually(t, "the server to be ready", func(ctx context.Context) error {
		_, err := kubectl(ctx, "-n", "meshed", "wait", "--for=condition=Ready", "--timeout=1s", "pod/server")
		return err
	})
	counted(t, "meshed", "client", "http://app.meshed/", nodes[1], fromClient, toServer, byTunnel)
}
