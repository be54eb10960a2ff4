package certs

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
)

type refusing struct{}

func (refusing) Sign(context.Context, identity.Workload, string, time.Duration) ([]string, error) {
	return nil, errors.New("not you")
}

// The answer has come already when the identity is forgotten, so that cancelling the request changes nothing.
func TestIdentityForgottenJustAfterItsAnswerIsNotAskedForAgain(t *testing.T) {
	id, err := identity.Parse("spiffe://cluster.local/ns/shop/sa/cart")
	if err != nil {
		t.Fatal(err)
	}
	for _, back := range []bool{false, true} {
		m := NewManager(refusing{}, slog.New(slog.DiscardHandler), time.Hour)
		m.Set([]identity.Workload{id})
		e := m.ready.first()
		m.ready.remove(e)
		m.running++
		e.cancel = func() {}
		m.Set(nil)
		if back {
			m.Set([]identity.Workload{id})
		}
		m.fetch(t.Context(), e)
		if n := len(m.waiting.list); n != 0 {
			t.Errorf("comes back %t: %d requests wait, want none", back, n)
		}
		if m.running != 0 {
			t.Errorf("comes back %t: %d requests count as running", back, m.running)
		}
	}
}
