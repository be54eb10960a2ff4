package story

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// captured runs f while the link between the nodes is captured.
func (s *Story) captured(f func() error, marks ...string) (demo.Report, error) {
	watch, err := s.cluster.Watch(node1, marks...)
	if err != nil {
		return demo.Report{}, err
	}
	err = f()
	report, stopErr := watch.Stop()
	return report, errors.Join(err, stopErr)
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

// logged waits for a line in a ztunnel's log that contains all of the words, and returns the latest.
func (s *Story) logged(ctx context.Context, node string, words ...string) (line string, err error) {
	what := fmt.Sprintf("a line with %s in the log of %s", strings.Join(words, " "), demo.Ztunnel(node))
	err = demo.AwaitWithin(ctx, 10*time.Second, what, func(context.Context) error {
		lines, err := s.cluster.LogLines(demo.Ztunnel(node), words...)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			return errors.New("there is none")
		}
		line = lines[len(lines)-1]
		return nil
	})
	return line, err
}

// fields keeps some keys of a log line's key=value pairs, for people to read.
func fields(line string, keys ...string) string {
	var out []string
	for _, key := range keys {
		_, rest, ok := strings.Cut(line, " "+key+"=")
		if !ok {
			if _, rest, ok = strings.Cut(line, "\t"+key+"="); !ok {
				continue
			}
		}
		value := rest
		if strings.HasPrefix(rest, `"`) {
			if end := strings.Index(rest[1:], `"`); end >= 0 {
				value = rest[:end+2]
			}
		} else {
			value, _, _ = strings.Cut(rest, " ")
		}
		out = append(out, key+"="+value)
	}
	return strings.Join(out, " ")
}

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
	s.evidence("visitor$ curl %s: %s", backendURL, said)
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

// shorten keeps the labels of a metric line that matter to the story.
func shorten(line string) string {
	name, rest, _ := strings.Cut(line, "{")
	labels, value, _ := strings.Cut(rest, "}")
	var kept []string
	for label := range strings.SplitSeq(labels, ",") {
		key, _, _ := strings.Cut(label, "=")
		if slices.Contains([]string{"reporter", "source_workload", "source_principal", "destination_workload", "response_flags"}, key) {
			kept = append(kept, label)
		}
	}
	return name + "{" + strings.Join(kept, ",") + "}" + value
}
