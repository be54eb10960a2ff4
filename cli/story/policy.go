package story

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

const allowFrontend = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: frontend-only
  namespace: shop
spec:
  selector:
    matchLabels:
      app: backend
  action: ALLOW
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/shop/sa/frontend"]
`

// policy is step 3: one identity is allowed, so the other is refused, and its open connection is cut.
func (s *Story) policy(ctx context.Context) error {
	open, err := s.cluster.Hold(ctx, visitor, s.backend(), 100*time.Millisecond)
	if err != nil {
		return fmt.Errorf("before the policy the visitor should reach the backend: %w", err)
	}
	defer open.Close()
	s.does("the mesh folder gets an ALLOW policy for cluster.local/ns/shop/sa/frontend")
	finished, failed := s.load.Count()
	if err := s.cluster.Apply("policy-frontend-only", allowFrontend); err != nil {
		return err
	}
	said, err := s.awaitRefusal(ctx, visitor)
	if err != nil {
		return err
	}
	s.evidence("%s: %s", s.prompt(visitor), said)
	s.holds("the visitor is refused")
	select {
	case <-open.Done():
		s.evidence("%v", open.Err())
		s.holds("the visitor's open connection was cut after %d exchanges", open.Exchanges())
	case <-time.After(10 * time.Second):
		return errors.New("the visitor's open connection still works")
	}
	if err := s.shows(ctx, frontend, "hello"); err != nil {
		return err
	}
	if err := s.explains(ctx); err != nil {
		return err
	}
	if err := s.keepsOn(ctx, 20); err != nil {
		return err
	}
	return s.noneFailed(finished, failed)
}

// explains shows the log line and the metric that say why the visitor is refused.
func (s *Story) explains(ctx context.Context) error {
	line, err := s.logged(ctx, node2, "access", `src.workload="visitor"`, "error=", "policy")
	if err != nil {
		return err
	}
	s.does("the log of %s:", demo.Ztunnel(node2))
	s.evidence("%s", fields(line, "src.workload", "src.identity", "dst.workload", "direction", "error"))
	const metric = "istio_tcp_connections_failed_total"
	lines, err := s.cluster.MetricLines(ctx, node2, metric, `source_workload="visitor"`, `response_flags="DENY"`)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		return fmt.Errorf("%s of %s counts no denial of the visitor", metric, node2)
	}
	s.does("the metrics of %s:", demo.Ztunnel(node2))
	s.evidence("%s", shorten(lines[0]))
	s.holds("log and metric say why")
	return nil
}

const strictShop = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: shop
spec:
  mtls:
    mode: STRICT
`

// strict is step 4: the visitor leaves the mesh, is served as long as that is permitted, and then refused.
func (s *Story) strict(ctx context.Context) error {
	finished, failed := s.load.Count()
	s.does("the policy of step 3 is removed; namespace %s loses its label, so the visitor leaves the mesh", guestNamespace)
	if err := s.cluster.Withdraw("policy-frontend-only"); err != nil {
		return err
	}
	if err := s.cluster.LabelNamespace(guestNamespace, demo.Label, ""); err != nil {
		return err
	}
	if err := s.awaitPlain(ctx, visitor); err != nil {
		return err
	}
	if err := s.shows(ctx, visitor, "hello"); err != nil {
		return err
	}
	s.holds("without STRICT, the backend still serves the visitor in plain text")
	s.does("the mesh folder gets a PeerAuthentication: STRICT for namespace %s", shopNamespace)
	if err := s.cluster.Apply("strict", strictShop); err != nil {
		return err
	}
	said, err := s.awaitRefusal(ctx, visitor)
	if err != nil {
		return err
	}
	s.evidence("%s: %s", s.prompt(visitor), said)
	line, err := s.logged(ctx, node2, "access", "src.addr="+s.cluster.PodAddrs(visitor)[0].String(), "error=", "strict")
	if err != nil {
		return err
	}
	s.does("the log of %s:", demo.Ztunnel(node2))
	s.evidence("%s", fields(line, "src.addr", "src.workload", "dst.workload", "direction", "error"))
	s.holds("the visitor, without an identity, is refused")
	if err := s.keepsOn(ctx, 20); err != nil {
		return err
	}
	return s.noneFailed(finished, failed)
}
