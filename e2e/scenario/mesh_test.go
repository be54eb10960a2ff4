package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestMeshedPodsOnTwoNodesTalkThroughTunnelsByTheirIdentities(t *testing.T) {
	for _, node := range nodes[:2] { // the client's and the server's
		counted(t, "meshed", "client", "http://app.meshed/", node, from("meshed", "client"), to("meshed", "server"), byTunnel)
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

func TestAPodThatCallsItselfIsNotCaptured(t *testing.T) {
	itself := []string{from("meshed", "client"), to("meshed", "client")}
	tallied(t, nodes[0], 0, itself, func() {
		answer, err := ask(t.Context(), "meshed", "client", "http://"+address(t, "meshed", "client")+":8080/")
		if err != nil || !strings.HasPrefix(answer, "pod=client ") {
			t.Errorf("%q %v", answer, err)
		}
		// Were the first counted, it would be by the time that this is.
		counted(t, "meshed", "client", "http://app.meshed/", nodes[0], `reporter="source"`, from("meshed", "client"), to("meshed", "server"), byTunnel)
	})
}

func TestAPodWithoutTheLabelIsPlain(t *testing.T) {
	state, err := kubectl(t.Context(), "-n", "plain", "get", "pod", "server", "-o", `jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}`)
	if err != nil || state != "" {
		t.Errorf("the agent says of it %q %v", state, err)
	}
	counted(t, "meshed", "client", "http://app.plain/", nodes[0],
		fromNobody, `source_workload="client"`, `destination_service="app.plain.svc.cluster.local"`, inPlain)
	counted(t, "plain", "server", "http://app.meshed/", nodes[1],
		fromNobody, `source_workload="server"`, `destination_service="app.meshed.svc.cluster.local"`, inPlain)
}

const strict = `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: meshed}, spec: {mtls: {mode: STRICT}}}`

// Probes come once a second, and have no identity. A pod that failed three would be restarted.
func TestUnderStrictModeKubeletsProbesPassAndPlainClientsDont(t *testing.T) {
	with(t, strict)
	refused(t, "plain", "server", "http://app.meshed/")
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
	ownNodes(t)
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
	counted(t, "meshed", "client", "http://app.meshed/", nodes[1], from("meshed", "client"), to("meshed", "server"), byTunnel)
}
