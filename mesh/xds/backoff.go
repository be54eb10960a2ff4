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
	// lasting is how long a stream that brings nothing has to last to count as one that worked.
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

// end is how a stream ended.
type end struct {
	kind   EventKind
	lasted time.Duration // the wait for it included
	pushed bool          // it brought something
}

// worked tells that the control plane was well until then: such an end is no reason to wait, as when it restarts or sheds load.
func (e end) worked() bool {
	return (e.kind == Reconnect || e.kind == Complete) && (e.pushed || e.lasted >= lasting)
}

// backoff is the delay before a stream is opened anew. Its zero value is ready.
type backoff struct{ next time.Duration }

// after returns the delay after a stream: the least after one that worked. Otherwise it doubles, up to the longest, whether the
// stream was refused, could not be opened, or ended without a word: a server that ends every stream at once isn't asked for
// everything a hundred times a second. A stream that brought something begins anew with it. It varies by a fifth so that clients
// of one server don't come back all at once.
func (b *backoff) after(e end) time.Duration {
	if e.worked() || e.pushed {
		b.next = 0
	}
	delay := max(b.next, minDelay)
	if !e.worked() {
		b.next = min(2*delay, maxDelay)
	}
	return time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64()))
}
