package xds

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestKindsOfEnds(t *testing.T) {
	for _, test := range []struct {
		err  error
		want EventKind
	}{
		{io.EOF, Complete},
		{status.Error(codes.Unknown, "x"), Reconnect},
		{errors.New("not of gRPC"), Reconnect},
		{status.Error(codes.Canceled, "x"), Reconnect},
		{status.Error(codes.DeadlineExceeded, "x"), Reconnect},
		{status.Error(codes.Unavailable, "transport is closing"), Reconnect},
		{status.Error(codes.Unavailable, "closing transport due to: EOF, received prior goaway: code: NO_ERROR"), Reconnect},
		{status.Error(codes.Unavailable, "connection refused"), ConnectionError},
		{&openError{status.Error(codes.Canceled, "x")}, ConnectionError},
		{fmt.Errorf("open: %w", status.Error(codes.Unauthenticated, "x")), Error},
		{status.Error(codes.PermissionDenied, "x"), Error},
		{status.Error(codes.ResourceExhausted, "x"), Error},
	} {
		if got := classify(test.err); got != test.want {
			t.Errorf("classify(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

func TestDelayDoublesUntilAStreamLasts(t *testing.T) {
	var b backoff
	expect := func(lasted, want time.Duration) {
		t.Helper()
		got := b.after(lasted)
		if got < want*8/10 || got > want*12/10 {
			t.Errorf("delay = %s, want %s give or take a fifth", got, want)
		}
	}
	expect(time.Minute, minDelay)
	for want := 2 * minDelay; want < maxDelay; want *= 2 {
		expect(lasting-1, want)
	}
	expect(0, maxDelay)
	expect(0, maxDelay)
	expect(lasting, minDelay)
	expect(0, 2*minDelay)
}
