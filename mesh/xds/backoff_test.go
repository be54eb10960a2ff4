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

func TestDelayDoublesUntilAStreamWorks(t *testing.T) {
	var b backoff
	expect := func(e end, want time.Duration) {
		t.Helper()
		got := b.after(e)
		if got < want*8/10 || got > want*12/10 {
			t.Errorf("delay after %+v = %s, want %s give or take a fifth", e, got, want)
		}
	}
	for _, kind := range []EventKind{ConnectionError, Error, Reconnect, Complete} {
		b = backoff{}
		for want := minDelay; want < maxDelay; want *= 2 {
			expect(end{kind: kind, lasted: lasting - 1}, want)
		}
		expect(end{kind: kind}, maxDelay)
		expect(end{kind: kind}, maxDelay)
		expect(end{kind: kind, pushed: true}, minDelay)
	}
	for _, kind := range []EventKind{Reconnect, Complete} {
		for _, worked := range []end{{kind, lasting, false}, {kind, 0, true}} {
			b = backoff{next: maxDelay}
			expect(worked, minDelay)
			expect(worked, minDelay)
		}
	}
	for _, kind := range []EventKind{ConnectionError, Error} { // however long it takes to refuse us
		b = backoff{next: time.Second}
		expect(end{kind: kind, lasted: time.Minute}, time.Second)
		expect(end{kind: kind, lasted: time.Minute}, 2*time.Second)
	}
}
