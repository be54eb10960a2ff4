package story

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

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
	s.evidence("visitor$ curl %s: %s", backendURL, said)
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

// awaitPlain waits until a pod's requests are readable on the wire, which shows that the mesh has let go of it.
func (s *Story) awaitPlain(ctx context.Context, pod string) error {
	mark := marker("AGAIN")
	return demo.AwaitWithin(ctx, 20*time.Second, pod+" to be plain on the wire", func(ctx context.Context) error {
		report, err := s.captured(func() error { _, err := s.fetch(ctx, pod, mark); return err }, mark)
		if err != nil {
			return err
		}
		seen := report.Seen(mark)
		if len(seen) == 0 {
			return errors.New("it's still encrypted")
		}
		s.evidence("%s > %s: %s", seen[0].From, seen[0].To, seen[0].Text)
		return nil
	})
}

// outage is step 5: nodes go on without the control plane, and follow it again when it's back.
func (s *Story) outage(ctx context.Context) error {
	finished, failed := s.load.Count()
	process, err := s.cluster.Process(demo.Istiod)
	if err != nil {
		return err
	}
	s.does("kill -9 %d (%s)", process.Pid, demo.Istiod)
	if err := s.cluster.Kill(ctx, demo.Istiod); err != nil {
		return err
	}
	if err := s.keepsOn(ctx, 50); err != nil {
		return err
	}
	if err := s.shows(ctx, frontend, "hello"); err != nil {
		return err
	}
	s.holds("without a control plane, new connections are made and carried")
	if err := s.lives(ctx, s.carried, "of step 2"); err != nil {
		return err
	}
	if _, err := s.fetch(ctx, visitor, "hello"); err == nil {
		return errors.New("without a control plane, the visitor is let in")
	}
	s.holds("and the visitor is still refused")
	s.does("%s starts again; STRICT is removed from the mesh folder", demo.Istiod)
	if err := s.cluster.StartIstiod(ctx); err != nil {
		return err
	}
	if err := s.cluster.Withdraw("strict"); err != nil {
		return err
	}
	began := time.Now()
	if err := s.awaitAnswer(ctx, visitor); err != nil {
		return fmt.Errorf("changes don't flow again: %w", err)
	}
	s.holds("changes flow again: the visitor is served, %.1f s after the change", time.Since(began).Seconds())
	if err := s.noneFailed(finished, failed); err != nil {
		return err
	}
	return s.lives(ctx, s.carried, "opened through the mesh")
}

// unlabelled is step 6: the pods leave the mesh, and nothing breaks.
func (s *Story) unlabelled(ctx context.Context) error {
	finished, failed := s.load.Count()
	s.does("namespace %s loses its label", shopNamespace)
	if err := s.cluster.LabelNamespace(shopNamespace, demo.Label, ""); err != nil {
		return err
	}
	if err := s.cluster.AwaitMeshed(ctx, false, frontend, "backend-v1", "backend-v2"); err != nil {
		return err
	}
	if err := s.awaitPlain(ctx, frontend); err != nil {
		return err
	}
	s.holds("requests are readable on the wire again")
	if err := s.keepsOn(ctx, 20); err != nil {
		return err
	}
	if err := s.noneFailed(finished, failed); err != nil {
		return err
	}
	return errors.Join(s.lives(ctx, s.plain, "opened before step 2"), s.lives(ctx, s.carried, "opened through the mesh"))
}
