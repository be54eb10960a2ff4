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

const strict = `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: meshed}, spec: {mtls: {mode: STRICT}}}`

// Probes come once a second, and have no identity. A pod that failed three would be restarted.
func TestUnderStrictModeKubeletsProbesPassAndPlainClientsDont(t *testing.T) {
	if err := apply(t.Context(), strict); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := mesh.Kubectl(context.Background(), strict, "delete", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "a plain client to be refused", func(ctx context.Context) error {
		if answer, err := ask(ctx, "plain", "server", "http://app.meshed/"); err == nil {
			return fmt.Errorf("it is answered %q", answer)
		}
		return nil
	})
	const what = `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.containerStatuses[0].restartCount} {end}`
	for range 5 {
		if got, err := kubectl(t.Context(), "-n", "meshed", "get", "pods", "-o", what); err != nil || got != "client True 0 server True 0 " {
			t.Fatalf("%q %v, want both pods ready, and never restarted", got, err)
		}
		time.Sleep(time.Second)
	}
	if answer, err := ask(t.Context(), "meshed", "client", "http://app.meshed/"); err != nil {
		t.Errorf("a client of the mesh: %q %v", answer, err)
	}
	if answer, err := ask(t.Context(), "plain", "server", "http://app.meshed/"); err == nil {
		t.Errorf("a plain client is answered %q", answer)
	}
}

const nobodyBut = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody-but, namespace: meshed}
spec: {selector: {matchLabels: {app: server}}, rules: [{from: [{source: {principals: [cluster.local/ns/meshed/sa/ACCOUNT]}}]}]}
`

func TestAPolicyLetsInWhomItNames(t *testing.T) {
	t.Cleanup(func() {
		if _, err := mesh.Kubectl(context.Background(), nobodyBut, "delete", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	for _, account := range []string{"server", "client"} {
		if err := apply(t.Context(), strings.ReplaceAll(nobodyBut, "ACCOUNT", account)); err != nil {
			t.Fatal(err)
		}
		passes := account == "client"
		eventually(t, "the policy about "+account, func(ctx context.Context) error {
			if answer, err := ask(ctx, "meshed", "client", "http://app.meshed/"); (err == nil) != passes {
				return fmt.Errorf("the client gets %q %v, want that it passes: %t", answer, err, passes)
			}
			return nil
		})
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
