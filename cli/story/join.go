package story

import (
	"context"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// The nodes of the story.
const (
	node1 = "node1"
	node2 = "node2"
)

// unmeshed is step 1: a marker in a request is readable on the wire.
func (s *Story) unmeshed(ctx context.Context) error {
	mark := marker("PLAIN")
	report, err := s.captured(func() error { return s.shows(ctx, frontend, mark) }, mark)
	if err != nil {
		return err
	}
	seen := report.Seen(mark)
	if len(seen) == 0 {
		return fmt.Errorf("the capture between the nodes has %d packets, but none shows %s", report.Packets, mark)
	}
	s.does("the packets between the nodes:")
	s.evidence("%s > %s: %s", seen[0].From, seen[0].To, seen[0].Text)
	s.holds("the request is readable on the wire, in %d packets", len(seen))
	return nil
}

// meshed is step 2: labels bring running pods into the mesh, and nobody notices but the eavesdropper.
func (s *Story) meshed(ctx context.Context) error {
	finished, failed := s.load.Count()
	mark := marker("SECRET")
	report, err := s.captured(func() error {
		if err := s.enrol(ctx); err != nil {
			return err
		}
		if err := s.shows(ctx, frontend, mark); err != nil {
			return err
		}
		if err := s.shows(ctx, visitor, mark); err != nil {
			return err
		}
		return s.keepsOn(ctx, 20)
	}, mark)
	if err != nil {
		return err
	}
	if err := s.encrypted(report, mark); err != nil {
		return err
	}
	if err := s.identities(ctx); err != nil {
		return err
	}
	if s.carried, err = s.cluster.Hold(ctx, frontend, s.backend(), 100*time.Millisecond); err != nil {
		return fmt.Errorf("through the mesh: %w", err)
	}
	if err := s.noneFailed(finished, failed); err != nil {
		return err
	}
	return s.lives(ctx, s.plain, "opened before")
}

// enrol labels both namespaces and waits until all of the mesh knows.
func (s *Story) enrol(ctx context.Context) error {
	for _, namespace := range []string{shopNamespace, guestNamespace} {
		s.does("namespace %s gets the label %s=%s", namespace, demo.Label, demo.Ambient)
		if err := s.cluster.LabelNamespace(namespace, demo.Label, demo.Ambient); err != nil {
			return err
		}
	}
	return s.cluster.AwaitMeshed(ctx, true, frontend, "backend-v1", "backend-v2", visitor)
}

// encrypted states what a capture shows of a meshed request.
func (s *Story) encrypted(report demo.Report, mark string) error {
	if seen := report.Seen(mark); len(seen) > 0 {
		return fmt.Errorf("%s is still readable: %s > %s: %s", mark, seen[0].From, seen[0].To, seen[0].Text)
	}
	if report.Records == 0 || report.Plain > 0 {
		return fmt.Errorf("port %d carries %d packets with TLS records and %d in the clear", demo.HBONEPort, report.Records, report.Plain)
	}
	if len(report.Handshakes) != 1 || report.Handshakes["TLS 1.3"] == 0 {
		return fmt.Errorf("want handshakes of TLS 1.3 alone on port %d, not %v", demo.HBONEPort, report.Handshakes)
	}
	s.does("the packets between the nodes:")
	s.evidence("port %d: %d handshakes chose TLS 1.3, %d packets begin with a TLS record", demo.HBONEPort, report.Handshakes["TLS 1.3"], report.Records)
	s.holds("%s is in none of %d packets", mark, report.Packets)
	return nil
}

// identities shows who talked to whom, as the receiving ztunnel has logged it.
func (s *Story) identities(ctx context.Context) error {
	for _, account := range []string{"shop/sa/frontend", "guest/sa/visitor"} {
		line, err := s.logged(ctx, node2, `src.identity="spiffe://cluster.local/ns/`+account+`"`, `dst.identity="spiffe://cluster.local/ns/shop/sa/backend"`)
		if err != nil {
			return err
		}
		s.evidence("%s", fields(line, "src.identity", "dst.identity"))
	}
	s.holds("both sides have proven who they are")
	return nil
}
