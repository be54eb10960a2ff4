package telemetry

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxQueuedLines and maxQueuedBytes bound what waits for a slow reader of the log.
	maxQueuedLines = 10_000
	maxQueuedBytes = 16 << 20
	// A buffer beyond this many bytes is given back once it is written.
	maxKeptQueue = 256 << 10
)

// Writer writes lines from its own goroutine, so that those who log never wait. When the reader of the log is so slow that
// 10,000 lines (or 16 MiB) wait, further lines are dropped and counted. Make it with NewWriter, end it with Close.
type Writer struct {
	w    io.Writer
	wake chan struct{} // one place: there is something to do
	done chan struct{} // closed at the goroutine's end

	mu     sync.Mutex
	queue  []byte // whole lines
	lines  int
	closed bool
	// Lines lost since the start, because too many waited or their write failed.
	dropped uint64
}

// NewWriter starts the goroutine that writes to w.
func NewWriter(w io.Writer) *Writer {
	writer := &Writer{w: w, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go writer.run()
	return writer
}

// Write takes one line, copies it and returns at once. It never fails: a line too many is dropped.
func (w *Writer) Write(line []byte) (int, error) {
	w.mu.Lock()
	if w.closed || w.lines >= maxQueuedLines || len(w.queue)+len(line) > maxQueuedBytes {
		w.dropped++
	} else {
		w.queue = append(w.queue, line...)
		w.lines++
	}
	w.mu.Unlock()
	w.signal()
	return len(line), nil
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run writes all that has come meanwhile with one call.
func (w *Writer) run() {
	defer close(w.done)
	var batch []byte
	for {
		w.mu.Lock()
		lines, closed := w.lines, w.closed
		batch, w.queue, w.lines = w.queue, batch[:0], 0
		w.mu.Unlock()
		switch {
		case lines > 0:
			if _, err := w.w.Write(batch); err != nil {
				w.count(lines)
			}
		case closed:
			return
		default:
			<-w.wake
		}
		if cap(batch) > maxKeptQueue {
			batch = nil
		}
	}
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
	w.signal()
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
