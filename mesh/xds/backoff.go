package xds

import (
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	minDelay = 10 * time.Millisecond
	maxDelay = 15 * time.Second
	// lasting is how long a stream has to last for the next one to come without a longer delay.
	lasting = time.Second
)

// classify tells how a stream ended.
func classify(err error) EventKind {
	var open *openError
	if errors.As(err, &open) {
		return ConnectionError
	}
	if errors.Is(err, io.EOF) {
		return Complete
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unknown, codes.Canceled, codes.DeadlineExceeded:
		return Reconnect
	case codes.Unavailable:
		if strings.Contains(s.Message(), "transport is closing") || strings.Contains(s.Message(), "received prior goaway") {
			return Reconnect
		}
		return ConnectionError
	default:
		return Error
	}
}

// backoff is the delay before a stream is opened anew. Its zero value is ready.
type backoff struct{ next time.Duration }

// after returns the delay after a stream that lasted so long, the wait for it included. It doubles with each short one,
// however that ended: a server that ends every stream at once isn't asked for everything a hundred times a second. After
// a long one it starts anew. It varies by a fifth so that clients of one server don't come back all at once.
func (b *backoff) after(lasted time.Duration) time.Duration {
	if lasted >= lasting {
		b.next = 0
	}
	delay := max(b.next, minDelay)
	b.next = min(2*delay, maxDelay)
	return time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64()))
}
