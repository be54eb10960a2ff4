package demo

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Upgrade is the replacement of a node's ztunnel by another one, while both run.
type Upgrade struct {
	cluster  *Cluster
	node     string
	place    string // where the new one runs
	old, new *Process
}

// NextZtunnel starts another ztunnel for a node beside the present one. Their own servers have the same ports, so it runs in the
// network of another place, as every pod of a DaemonSet has one of its own: the node itself, or a pod without the mesh.
func (c *Cluster) NextZtunnel(node, place string) (*Upgrade, error) {
	if _, err := c.Netns(place); err != nil {
		return nil, err
	}
	old, err := c.Process(Ztunnel(node))
	if err != nil {
		return nil, err
	}
	next, err := c.launchZtunnel(node, place)
	if err != nil {
		return nil, err
	}
	return &Upgrade{cluster: c, node: node, place: place, old: old, new: next}, nil
}

// Await waits until the new one serves all enrolled pods of the node.
func (u *Upgrade) Await(ctx context.Context) error {
	return AwaitWithin(ctx, 30*time.Second, "the next "+u.new.Name+" to be ready", func(ctx context.Context) error {
		if !u.new.Alive() {
			return hopeless{fmt.Errorf("it has ended; see %s", u.cluster.LogFile(u.new.Name))}
		}
		_, err := u.cluster.Get(ctx, u.place, "http://127.0.0.1:15021/healthz/ready")
		return err
	})
}

// PauseOld keeps the old one from doing anything until resume is called.
func (u *Upgrade) PauseOld() (resume func() error, err error) {
	return func() error { return u.old.signal(unix.SIGCONT) }, u.old.signal(unix.SIGSTOP)
}

// KillNew ends the new one as a crash would, and returns when it is gone.
func (u *Upgrade) KillNew(ctx context.Context) error {
	if err := u.new.signal(unix.SIGKILL); err != nil {
		return err
	}
	return u.new.wait(ctx)
}

// StopOld ends the old one in order, and by force after the given patience. It returns when it is gone.
func (u *Upgrade) StopOld(ctx context.Context, patience time.Duration) error {
	return u.old.end(ctx, patience)
}
