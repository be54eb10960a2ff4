package telemetry

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxQueuedLines and maxQueuedBytes bound what waits for a slow reader of the log.
	maxQueuedLines = 10_000
	maxQueuedBytes = 16 << 20
	// A buffer beyond this many bytes is given back once it is written.
	maxKeptQueue = 256 << 10
	// gather is how long the first line waits for others, so that a busy log costs one write for many lines; gatherBytes
	// are enough of them.
	gather      = 10 * time.Millisecond
	gatherBytes = 64 << 10
	// tellDrops is the least time between two lines about lost lines.
	tellDrops = 10 * time.Second
)

// Writer writes lines from its own goroutine, so that those who log never wait. When the reader of the log is so slow that
// 10,000 lines (or 16 MiB) wait, further lines are dropped and counted. Make it with NewWriter, end it with Close.
type Writer struct {
	w    io.Writer
	wake chan struct{} // one place: there is something to do
	full chan struct{} // one place: what there is should not wait for more
	done chan struct{} // closed at the goroutine's end

	mu     sync.Mutex
	queue  []byte // whole lines
	lines  int
	closed bool
	// Lines lost since the start, because too many waited or their write failed.
	dropped uint64
	tell    func(lines uint64)

	// Only the goroutine uses them: how many lost lines were told of, and when.
	told   uint64
	toldAt time.Time
}

// NewWriter starts the goroutine that writes to w.
func NewWriter(w io.Writer) *Writer {
	writer := &Writer{w: w, wake: make(chan struct{}, 1), full: make(chan struct{}, 1), done: make(chan struct{})}
	go writer.run()
	return writer
}

// OnDrop has tell called with the number of lines lost since the last call, once there is
// room in the queue again. It may log.
func (w *Writer) OnDrop(tell func(lines uint64)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell = tell
}

// Write takes one line, copies it and returns at once. It never fails: a line too many is dropped.
func (w *Writer) Write(line []byte) (int, error) {
	w.mu.Lock()
	first, full := false, false
	if w.closed || w.lines >= maxQueuedLines || len(w.queue)+len(line) > maxQueuedBytes {
		w.dropped++
	} else {
		w.queue = append(w.queue, line...)
		w.lines++
		first, full = w.lines == 1, len(w.queue) >= gatherBytes
	}
	w.mu.Unlock()
	if first {
		signal(w.wake)
	}
	if full {
		signal(w.full)
	}
	return len(line), nil
}

func signal(place chan struct{}) {
	select {
	case place <- struct{}{}:
	default:
	}
}

// run writes all that has come meanwhile with one call.
func (w *Writer) run() {
	defer close(w.done)
	var batch []byte
	more := time.NewTimer(gather)
	defer more.Stop()
	for {
		<-w.wake
		more.Reset(gather)
		select {
		case <-more.C:
		case <-w.full:
		}
		w.mu.Lock()
		lines, closed := w.lines, w.closed
		batch, w.queue, w.lines = w.queue, batch[:0], 0
		w.mu.Unlock()
		w.tellDrops(time.Now())
		if lines > 0 {
			if _, err := w.w.Write(batch); err != nil {
				w.count(lines)
			}
		}
		if closed {
			return
		}
		if cap(batch) > maxKeptQueue {
			batch = nil
		}
	}
}

// tellDrops reports lines that were lost since the last report, now that the queue has room.
func (w *Writer) tellDrops(now time.Time) {
	w.mu.Lock()
	dropped, tell := w.dropped, w.tell
	w.mu.Unlock()
	if tell == nil || dropped == w.told || now.Sub(w.toldAt) < tellDrops {
		return
	}
	tell(dropped - w.told)
	w.told, w.toldAt = dropped, now
}

// count adds lines that were lost.
func (w *Writer) count(lines int) {
	w.mu.Lock()
	w.dropped += uint64(lines)
	w.mu.Unlock()
}

// Close writes what is waiting and ends the goroutine. Lines written later are dropped. If ctx ends first, because nobody
// reads the log, the goroutine ends as soon as its last write does.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	signal(w.full)
	signal(w.wake)
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write the last log lines: %w", ctx.Err())
	}
}

// Collector offers the count of lost lines as tulle_log_lines_dropped_total.
func (w *Writer) Collector() prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "tulle_log_lines_dropped_total",
		Help: "Log lines lost because their reader was too slow or gone.",
	}, func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return float64(w.dropped)
	})
}
