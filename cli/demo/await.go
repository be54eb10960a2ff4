package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// hopeless is the error of a check that can't succeed any more.
type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

// Await calls check until it returns nil, at first often, then four times a second, and never past ctx's deadline. Its
// error names what was waited for and why the last check failed.
func Await(ctx context.Context, what string, check func(context.Context) error) error {
	pause := 5 * time.Millisecond
	began := time.Now()
	for {
		last := check(ctx)
		if last == nil {
			return nil
		}
		if errors.As(last, &hopeless{}) {
			return fmt.Errorf("no use to wait for %s: %w", what, last)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waited %s for %s: %w", time.Since(began).Round(time.Millisecond), what, last)
		case <-timer.C:
		}
		pause = min(pause*2, 250*time.Millisecond)
	}
}

// AwaitWithin is Await with a deadline of its own.
func AwaitWithin(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return Await(ctx, what, check)
}
