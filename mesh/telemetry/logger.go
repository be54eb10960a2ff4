package telemetry

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	defaultScope = "default"
	timeForm     = "2006-01-02T15:04:05.000000Z"
	// A line's buffer beyond this many bytes is not kept for the next line.
	maxKeptLine = 16 << 10
)

// NewLogger makes a logger that writes one line per record with a single Write of w. The format is "json", or "plain" for
//
//	<time> TAB <level> TAB <scope> TAB <message> TAB key=value key=value …
//
// A logger's scope is its attribute "scope", given by With; levels decide by it. Writes of one logger and its descendants
// never overlap.
func NewLogger(w io.Writer, format string, levels *Levels) *slog.Logger {
	return slog.New(&handler{out: &output{w: w}, json: format == "json", levels: levels, scope: defaultScope})
}

// output is shared by a logger and its descendants.
type output struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// handler is immutable.
type handler struct {
	out    *output
	levels *Levels
	json   bool
	scope  string
	// fields are the attributes of With, already in the line's form.
	fields []byte
	// group is put before every further key, with a dot at its end.
	group string
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.levels.of(h.scope)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.fields = slices.Clip(slices.Clone(h.fields))
	for _, attr := range attrs {
		if attr.Key == "scope" && h.group == "" {
			next.scope = attr.Value.Resolve().String()
			continue
		}
		next.fields = next.appendAttr(next.fields, h.group, attr)
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.group += name + "."
	return &next
}

// Handle implements slog.Handler.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	line := appendHead(h.out.buf[:0], h.json, head{r.Time, r.Level, h.scope, r.Message})
	begin := len(line)
	line = append(line, h.fields...)
	r.Attrs(func(attr slog.Attr) bool {
		line = h.appendAttr(line, h.group, attr)
		return true
	})
	line = finishLine(line, begin, h.json)
	if h.out.buf = nil; cap(line) <= maxKeptLine {
		h.out.buf = line
	}
	_, err := h.out.w.Write(line)
	return err
}

// head is what every line begins with.
type head struct {
	time           time.Time
	level          slog.Level
	scope, message string
}

func appendHead(line []byte, json bool, h head) []byte {
	if json {
		line = append(line, `{"level":"`...)
		line = append(line, levelName(h.level)...)
		line = append(line, `","time":"`...)
		line = appendTime(line, h.time)
		line = append(line, `","scope":`...)
		line = appendQuoted(line, h.scope)
		line = append(line, `,"message":`...)
		return appendQuoted(line, h.message)
	}
	line = appendTime(line, h.time)
	line = append(line, '\t')
	line = append(line, levelName(h.level)...)
	line = append(line, '\t')
	line = appendEscaped(line, h.scope)
	line = append(line, '\t')
	return appendEscaped(line, h.message)
}

// finishLine ends a line whose attributes begin at begin.
func finishLine(line []byte, begin int, json bool) []byte {
	switch {
	case json:
		line = append(line, '}')
	case len(line) > begin:
		line[begin] = '\t' // instead of the first attribute's space
	}
	return append(line, '\n')
}

func appendTime(line []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(line, '-')
	}
	return t.UTC().AppendFormat(line, timeForm)
}
