package ca

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/mesh/api/ca"
)

func TestAClientThatSendsBadRequestsDoesNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		log := slog.New(slog.NewTextHandler(&logged, nil))
		s := NewServer(Config{
			Authority: NewLive(newRoot(t, 10)), TrustDomains: func() []string { return []string{"cluster.local"} },
			Registry: prometheus.NewRegistry(), Logger: log,
		})
		bad := func(pod string, times int) (lines []string) {
			for range times {
				caller := Caller{Namespace: "demo", ServiceAccount: "app", Pod: pod}
				_, err := s.create(caller, &ca.IstioCertificateRequest{Csr: "nonsense"}, log.With("pod", pod))
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("answer: %v", err)
				}
			}
			lines = strings.Split(strings.TrimSpace(logged.String()), "\n")
			logged.Reset()
			return lines
		}
		if lines := bad("a", 1000); len(lines) != complaintsAtOnce {
			t.Errorf("%d lines, want %d", len(lines), complaintsAtOnce)
		}
		// Another client is heard at once, with what wasn't said of the first.
		if lines := bad("b", 1); len(lines) != 1 || !strings.Contains(lines[0], "pod=b identity=spiffe://cluster.local/ns/demo/sa/app unsaid=950 err=") {
			t.Errorf("another client: %q", lines)
		}
		time.Sleep(3 * time.Second)
		if lines := bad("a", 1000); len(lines) != 3*complaints || strings.Contains(lines[0], "unsaid") {
			t.Errorf("after 3 s: %q", lines)
		}
	})
}

func TestCallersThatAreNotProvenDoNotFillTheLog(t *testing.T) {
	var logged bytes.Buffer
	s := NewServer(Config{
		Authority: NewLive(newRoot(t, 10)), Registry: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(&logged, nil)),
	})
	for range 1000 {
		if err := s.Refuse(t.Context(), errors.New("expired")); status.Code(err) != codes.Unauthenticated {
			t.Errorf("answer: %v", err)
		}
	}
	if lines := strings.Count(logged.String(), "\n"); lines < complaintsAtOnce || lines > 2*complaintsAtOnce {
		t.Errorf("%d lines, want %d", lines, complaintsAtOnce)
	}
}
