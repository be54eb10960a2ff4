package story

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

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
