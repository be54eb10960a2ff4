package scenario

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// rolledOut waits until what runs pods has replaced all of them.
func rolledOut(ctx context.Context, namespace, what string) error {
	_, err := kubectl(ctx, "-n", namespace, "rollout", "status", what, "--timeout=90s")
	return err
}

// restarted replaces all pods of something.
func restarted(t *testing.T, namespace, what string) {
	t.Helper()
	must(t, "-n", namespace, "rollout", "restart", what)
	if err := rolledOut(t.Context(), namespace, what); err != nil {
		t.Fatal(err)
	}
}

func TestScalingAServerLosesNoRequest(t *testing.T) {
	t.Cleanup(func() {
		if _, err := kubectl(context.Background(), "-n", "busy", "scale", "deployment/server", "--replicas=2"); err != nil {
			t.Error(err)
		}
	})
	loseNothing(t, func(ctx context.Context) {
		for _, replicas := range []string{"1", "30", "1", "2"} {
			must(t, "-n", "busy", "scale", "deployment/server", "--replicas="+replicas)
			if err := rolledOut(ctx, "busy", "deployment/server"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the others to end", func(ctx context.Context) error {
				got, err := kubectl(ctx, "-n", "busy", "get", "pods", "-l", "app=server", "-o", "name")
				if err == nil && fmt.Sprint(len(strings.Fields(got))) != replicas {
					err = fmt.Errorf("there are %q", strings.Fields(got))
				}
				return err
			})
		}
	})
}

func TestReplacingPodsOfAServerLosesNoRequest(t *testing.T) {
	loseNothing(t, func(context.Context) { restarted(t, "busy", "deployment/server") })
}

func TestReplacingTheControlPlaneLosesNoRequest(t *testing.T) {
	loseNothing(t, func(context.Context) { restarted(t, system, "deployment/istiod") })
}

func TestReplacingTheAgentLosesNoRequest(t *testing.T) {
	loseNothing(t, func(context.Context) { restarted(t, system, "daemonset/istio-cni-node") })
}

func TestReplacingZtunnelLosesNoRequest(t *testing.T) {
	loseNothing(t, func(context.Context) { restarted(t, system, "daemonset/ztunnel") })
}

// lifetime is that of certificates which are replaced twice as often.
const lifetime = 10 * time.Second

func TestCertificatesAreReplacedUnderLoad(t *testing.T) {
	dir, err := packaged(t.Context(), cluster.Version)
	if err != nil {
		t.Fatal(err)
	}
	ztunnel := cluster.Parts[len(cluster.Parts)-1]
	t.Cleanup(func() {
		if err := mesh.Helm(context.Background(), "rollback", ztunnel.Release, "-n", system, "--wait", "--timeout", "90s"); err != nil {
			t.Error(err)
		}
	})
	if err := mesh.Install(t.Context(), ztunnel, "upgrade", dir, "--set", "env.SECRET_TTL="+lifetime.String()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	loseNothing(t, func(ctx context.Context) {
		for end := time.Now().Add(5 * lifetime / 2); time.Now().Before(end); time.Sleep(lifetime / 10) {
			serial, err := certificate(ctx, nodes[0], "spiffe://cluster.local/ns/busy/sa/client")
			if err != nil {
				t.Fatal(err)
			}
			seen[serial] = true
		}
	})
	if len(seen) < 4 {
		t.Errorf("in %s the client had %d certificates, want 4 at least", 5*lifetime/2, len(seen))
	}
}

// certificate returns the serial number of an identity's certificate on a node.
func certificate(ctx context.Context, node, identity string) (string, error) {
	pod, err := ztunnelOf(ctx, node)
	if err != nil {
		return "", err
	}
	text, err := through(ctx, system, "pod/"+pod, 15000, "/config_dump")
	if err != nil {
		return "", err
	}
	var dump struct {
		Certificates []struct {
			Identity  string
			CertChain []struct{ SerialNumber string }
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		return "", err
	}
	for _, c := range dump.Certificates {
		if c.Identity == identity && len(c.CertChain) > 0 {
			return c.CertChain[0].SerialNumber, nil
		}
	}
	return "", fmt.Errorf("ztunnel of %s has no certificate of %s", node, identity)
}

// through requests a page of a pod by kubectl port-forward.
func through(ctx context.Context, namespace, target string, port int, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := mesh.Command(ctx, "kubectl", "-n", namespace, "port-forward", target, fmt.Sprintf(":%d", port))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := mesh.Do(cmd.Start); err != nil {
		return "", err
	}
	defer func() { cancel(); _ = cmd.Wait() }() // it ends only by that
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("port-forward %s: %w: %s", target, err, complaint.String())
	}
	var local int
	if _, err := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d ->", &local); err != nil {
		return "", fmt.Errorf("port-forward says %q: %w", line, err)
	}
	return outside(ctx, fmt.Sprintf("127.0.0.1:%d", local), path)
}

const comingAndGoing = `
apiVersion: v1
kind: Namespace
metadata: {name: turning}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: turning, labels: {app: server}}
spec:
  nodeName: SECOND
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: docker.io/tulle-mesh/app:dev
    imagePullPolicy: IfNotPresent
    args: [serve]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: turning}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
`

// The client is in the mesh all the time, the server comes in and goes out.
func TestANamespaceComesInAndGoesOutUnderLoad(t *testing.T) {
	t.Parallel()
	with(t, comingAndGoing)
	if err := settled(t.Context(), "turning"); err != nil {
		t.Fatal(err)
	}
	const url = "http://server.turning/"
	arrives := []string{`reporter="destination"`, from("meshed", "client"), to("turning", "default"), byTunnel}
	plain := []string{`reporter="source"`, `source_workload="client"`, `destination_workload_namespace="turning"`, inPlain}
	result := loadOf(t, "meshed", "client", url, func() {
		for range 2 {
			must(t, "label", "namespace", "turning", "istio.io/dataplane-mode=ambient")
			keepsCounting(t, nodes[1], arrives...)
			must(t, "label", "namespace", "turning", "istio.io/dataplane-mode-")
			keepsCounting(t, nodes[0], plain...)
		}
	})
	if result.Failed > 0 {
		t.Errorf("%d of %d requests failed: %+v", result.Failed, result.Requests, result.Failures)
	}
}

// keepsCounting waits until a node's ztunnel has counted ten more connections with the labels.
func keepsCounting(t *testing.T, node string, labels ...string) {
	t.Helper()
	before, err := opened(t.Context(), node, labels...)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "connections", func(ctx context.Context) error {
		now, err := opened(ctx, node, labels...)
		if err == nil && now < before+10 {
			err = fmt.Errorf("ztunnel on %s has counted %d with %q", node, now-before, labels)
		}
		return err
	})
}
