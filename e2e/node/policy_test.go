package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

const denyStranger = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-from-plain, namespace: app}
spec:
  selector: {matchLabels: {app: far}}
  action: DENY
  rules:
  - from:
    - source: {notNamespaces: ["app"]}
`

const allowClient = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: client-only, namespace: app}
spec:
  selector: {matchLabels: {app: far}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/app/sa/client"]}
`

const strictApp = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: app}
spec: {mtls: {mode: STRICT}}
`

// In STRICT mode nobody without an identity gets in, by any address; who has one does.
func TestStrict(t *testing.T) {
	c := shared.use(t)
	for _, family := range []int{0, 1} {
		served(t, c, stranger, podAddr(c, far, family, web)) // permissive
	}
	apply(t, c, "strict", strictApp, 1)
	for _, family := range []int{0, 1} {
		for _, server := range []string{far, near} {
			refused(t, c, stranger, podAddr(c, server, family, web))
			refused(t, c, stranger, vip(c, server, family, 80))
			refused(t, c, world, podAddr(c, server, family, web))
			served(t, c, client, vip(c, server, family, 80))
		}
	}
	line := logged(t, c, demo.Ztunnel("node2"), "access", "src.addr="+c.PodAddrs(stranger)[0].String(), "error=")
	if !strings.Contains(line, "polic") {
		t.Errorf("the log doesn't say why: %s", line)
	}
}

// A policy decides by the caller's proven identity, also about connections that are open when it comes.
func TestPolicyCutsOpenConnections(t *testing.T) {
	c := shared.use(t)
	hold := func(pod string) *demo.Held {
		held, err := c.Hold(t.Context(), pod, vip(c, far, 0, 80), 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { held.Close() })
		return held
	}
	allowed, tunnelled, plain := hold(client), hold(near), hold(stranger)
	apply(t, c, "client-only", allowClient, 1)
	for name, held := range map[string]*demo.Held{"through a tunnel": tunnelled, "in plain text": plain} {
		select {
		case <-held.Done():
		case <-time.After(slow):
			t.Errorf("the connection %s of a denied caller goes on", name)
		}
	}
	if err := allowed.Fresh(t.Context()); err != nil {
		t.Errorf("the allowed caller: %v", err)
	}
	refused(t, c, near, vip(c, far, 0, 80))
	refused(t, c, stranger, vip(c, far, 0, 80))
	served(t, c, client, vip(c, far, 0, 80))
	served(t, c, near, vip(c, client, 0, 80)) // The policy is for one pod.
	lines, err := c.MetricLines(t.Context(), "node2", "istio_tcp_connections_failed_total", `source_principal="spiffe://cluster.local/ns/app/sa/near"`, `response_flags="DENY"`, `reporter="destination"`)
	if err != nil || len(lines) == 0 {
		t.Errorf("no metric counts the refusals: %v", err)
	}
}

// A broken file leaves the last good state in force, and is reported with its name, line and reason.
func TestBrokenFileKeepsTheLastGoodState(t *testing.T) {
	c := shared.use(t)
	apply(t, c, "policy", allowClient, 1)
	refused(t, c, near, vip(c, far, 0, 80))
	for name, broken := range map[string]string{
		"not YAML":         allowClient + "\t- : broken",
		"an unknown field": strings.Replace(allowClient, "action:", "acton:", 1),
		"cut short":        "",
	} {
		t.Run(name, func(t *testing.T) {
			seen, err := c.LogLines(demo.Istiod, "policy.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Apply("policy", broken); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a report of the broken file", func(context.Context) error {
				lines, err := c.LogLines(demo.Istiod, "policy.yaml")
				if err == nil && len(lines) <= len(seen) {
					err = errors.New("there is none")
				}
				return err
			})
			if reaches(t.Context(), c, near, vip(c, far, 0, 80)) == nil {
				t.Error("the policy isn't in force any more")
			}
			if err := reaches(t.Context(), c, client, vip(c, far, 0, 80)); err != nil {
				t.Error(err)
			}
		})
	}
	lines, err := c.LogLines(demo.Istiod, filepath.Join(c.MeshDir(), "policy.yaml:"))
	if err != nil || len(lines) == 0 {
		t.Errorf("no report names file and line: %v", err)
	}
	// Mended, it's followed again.
	if err := c.Apply("policy", strings.Replace(allowClient, "sa/client", "sa/near", 1)); err != nil {
		t.Fatal(err)
	}
	served(t, c, near, vip(c, far, 0, 80))
	refused(t, c, client, vip(c, far, 0, 80))
}

// Removing a policy opens again what it closed.
func TestPolicyWithdrawn(t *testing.T) {
	c := shared.use(t)
	for round := range 3 {
		if err := c.Apply("come-and-go", denyStranger); err != nil {
			t.Fatal(err)
		}
		refused(t, c, stranger, podAddr(c, far, 0, web))
		if err := c.Withdraw("come-and-go"); err != nil {
			t.Fatal(err)
		}
		served(t, c, stranger, podAddr(c, far, 0, web))
		if t.Failed() {
			t.Fatal(fmt.Sprint("round ", round))
		}
	}
}
