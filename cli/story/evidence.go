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
