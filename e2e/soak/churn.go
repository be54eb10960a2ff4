package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// aside is a policy that has nothing to do with the traffic, but has to be asked about it.
const aside = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: aside, namespace: app}
spec:
  action: DENY
  rules:
  - from: [{source: {principals: ["cluster.local/ns/app/sa/nobody"]}}]
  - to: [{operation: {ports: ["9"]}}]
`

// disturbance is something that happens while traffic runs.
type disturbance struct {
	name string
	do   func(*soak, context.Context) error
}

// unnoticed are disturbances that must not cost a connection.
var unnoticed = []disturbance{
	{"a policy comes", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.Apply("aside", aside), s.cluster.AwaitPolicies(ctx, 1))
	}},
	{"a pod leaves the mesh", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.LabelPod(guest, demo.Label, "none"), s.cluster.AwaitMeshed(ctx, false, guest))
	}},
	{"the control plane is killed", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.Kill(ctx, demo.Istiod), s.cluster.StartIstiod(ctx))
	}},
	{"a pod comes back to the mesh", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.LabelPod(guest, demo.Label, ""), s.cluster.AwaitMeshed(ctx, true, guest))
	}},
	{"an agent is killed", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.Kill(ctx, demo.Agent("node1")), s.cluster.StartAgent(ctx, "node1"))
	}},
	{"a policy goes", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.Withdraw("aside"), s.cluster.AwaitPolicies(ctx, 0))
	}},
	{"an agent is stopped", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.Stop(ctx, demo.Agent("node2"), patience), s.cluster.StartAgent(ctx, "node2"))
	}},
}

// noticed are disturbances that end connections.
var noticed = []disturbance{
	{"a ztunnel is killed", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.Kill(ctx, demo.Ztunnel("node2")), s.cluster.StartZtunnel(ctx, "node2"))
	}},
	{"a ztunnel is restarted", func(s *soak, ctx context.Context) error {
		return errors.Join(s.cluster.Stop(ctx, demo.Ztunnel("node1"), patience), s.cluster.StartZtunnel(ctx, "node1"))
	}},
}

// disturb goes on with disturbances that nobody notices until stop is closed.
func (s *soak) disturb(ctx context.Context, stop <-chan struct{}) error {
	tick := time.NewTicker(s.pause)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			d := unnoticed[s.disturbed%len(unnoticed)]
			s.disturbed++
			if err := d.do(s, ctx); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
	}
}

// interrupt ends connections by one of the disturbances that do, under traffic that may fail for as long.
func (s *soak) interrupt(ctx context.Context) error {
	d := noticed[s.interrupted%len(noticed)]
	s.interrupted++
	s.window.Add(1)
	end := s.start()
	defer func() {
		end()
		s.window.Add(1)
	}()
	select { // there should be something to interrupt
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	err := d.do(s, ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	return nil
}
