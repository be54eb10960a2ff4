package story

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// marker is a word that occurs nowhere else, to look for on the wire.
func marker(step string) string { return step + "-" + rand.Text()[:12] }

// fetch requests the backend from a pod with a marker in the query: with curl if there is one, as a person would, else
// with the demo's own client.
func (s *Story) fetch(ctx context.Context, pod, mark string) (string, error) {
	to := backendURL + "?secret=" + mark
	if s.curl == "" {
		parsed, err := url.Parse(to)
		if err != nil {
			return "", err
		}
		parsed.Host = s.backend().String()
		return s.cluster.Get(ctx, pod, parsed.String())
	}
	command, err := s.cluster.Command(pod, []string{s.curl, "-sS", "--fail", "--max-time", "5", to})
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && stderr.Len() > 0 {
			return "", errors.New(strings.TrimSpace(stderr.String()))
		}
		return "", fmt.Errorf("run curl: %w", err)
	}
	return stdout.String(), nil
}

// prompt is how a request from a pod is shown.
func (s *Story) prompt(pod string) string {
	program := "GET"
	if s.curl != "" {
		program = "curl"
	}
	return pod + "$ " + program + " " + backendURL
}

// shows makes a request that must succeed, and shows command and answer.
func (s *Story) shows(ctx context.Context, pod, mark string) error {
	s.does("%s?secret=%s", s.prompt(pod), mark)
	answer, err := s.fetch(ctx, pod, mark)
	if err != nil {
		return fmt.Errorf("%s can't reach the backend: %w", pod, err)
	}
	lines := strings.SplitN(answer, "\n", 3)
	s.evidence("%s", strings.Join(lines[:min(2, len(lines))], ", "))
	return nil
}

func (s *Story) does(format string, args ...any)     { s.say.does(format, args...) }
func (s *Story) evidence(format string, args ...any) { s.say.evidence(format, args...) }
func (s *Story) holds(format string, args ...any)    { s.say.holds(format, args...) }

// awaitAnswer waits until a pod reaches the backend.
func (s *Story) awaitAnswer(ctx context.Context, pod string) error {
	return demo.AwaitWithin(ctx, 15*time.Second, pod+" to reach the backend", func(ctx context.Context) error {
		_, err := s.fetch(ctx, pod, "hello")
		return err
	})
}

// awaitRefusal waits until a pod can't reach the backend any more, and returns what its program said.
func (s *Story) awaitRefusal(ctx context.Context, pod string) (said string, err error) {
	err = demo.AwaitWithin(ctx, 15*time.Second, "the backend to refuse "+pod, func(ctx context.Context) error {
		answer, err := s.fetch(ctx, pod, "hello")
		if err == nil {
			return fmt.Errorf("it still answers: %.60q", answer)
		}
		said = err.Error()
		return nil
	})
	return said, err
}

// noneFailed states that of the requests since a count none has failed.
func (s *Story) noneFailed(finished, failed uint64) error {
	nowFinished, nowFailed := s.load.Count()
	if nowFailed > failed {
		return fmt.Errorf("%d of %d requests of the frontend failed, the last with: %w", nowFailed-failed, nowFinished-finished, s.load.Err())
	}
	s.holds("the frontend's %d requests meanwhile, each over a new connection: 0 failed", nowFinished-finished)
	return nil
}

// keepsOn waits until some more requests of the load have been answered.
func (s *Story) keepsOn(ctx context.Context, requests uint64) error {
	before, _ := s.load.Count()
	return demo.AwaitWithin(ctx, 10*time.Second, "more requests of the frontend", func(context.Context) error {
		if now, _ := s.load.Count(); now < before+requests {
			return fmt.Errorf("%d so far, want %d", now-before, requests)
		}
		return nil
	})
}

// lives states that a held connection still works.
func (s *Story) lives(ctx context.Context, held *demo.Held, which string) error {
	if err := held.Fresh(ctx); err != nil {
		return fmt.Errorf("the keep-alive connection %s: %w", which, err)
	}
	s.holds("the keep-alive connection %s lives on: %d exchanges so far", which, held.Exchanges())
	return nil
}
