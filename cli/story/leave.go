package story

import (
	"context"
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

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
