package telemetry

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"
)

const (
	levelTrace = slog.LevelDebug - 4
	levelOff   = slog.Level(math.MaxInt)

	maxDirectives = 100
	maxScopeName  = 100 // bytes
)

// Levels says from which level on lines are written, for everything and for single scopes. It can be changed while it is
// in use. The zero value is "info".
type Levels struct {
	current atomic.Pointer[levelTable]
	initial *levelTable
}

// levelTable is immutable.
type levelTable struct {
	base   slog.Level
	scopes map[string]slog.Level
}

// ParseLevels reads the levels to begin with: a comma list of a level for everything and scope=level pairs, such as
// "info,access=debug". The levels are trace, debug, info, warn, error and off. A scope holds for those below it too:
// xds for xds::client. An empty text is "info". RUST_LOG's plain directives have the same form; its span filters are
// refused.
func ParseLevels(text string) (*Levels, error) {
	table, err := new(levelTable).with(text)
	if err != nil {
		return nil, err
	}
	l := &Levels{initial: table}
	l.current.Store(table)
	return l, nil
}

// Set changes what text names, in ParseLevels' form, and leaves the rest. After an error nothing has changed.
func (l *Levels) Set(text string) error {
	for {
		before := l.current.Load()
		after, err := before.with(text)
		if err != nil {
			return err
		}
		if l.current.CompareAndSwap(before, after) {
			return nil
		}
	}
}

// Reset returns to the levels of the beginning.
func (l *Levels) Reset() { l.current.Store(l.initial) }

// String returns the levels in force in ParseLevels' form, scopes in alphabetical order.
func (l *Levels) String() string {
	table := l.current.Load()
	if table == nil {
		table = &levelTable{}
	}
	parts := []string{levelName(table.base)}
	for _, scope := range slices.Sorted(maps.Keys(table.scopes)) {
		parts = append(parts, scope+"="+levelName(table.scopes[scope]))
	}
	return strings.Join(parts, ",")
}

// of returns the level from which on lines of the scope are written.
func (l *Levels) of(scope string) slog.Level {
	table := l.current.Load()
	if table == nil {
		return slog.LevelInfo
	}
	for len(table.scopes) > 0 {
		if level, ok := table.scopes[scope]; ok {
			return level
		}
		end := strings.LastIndex(scope, "::")
		if end < 0 {
			break
		}
		scope = scope[:end]
	}
	return table.base
}

func (t *levelTable) with(text string) (*levelTable, error) {
	next := &levelTable{scopes: map[string]slog.Level{}}
	if t != nil {
		next.base = t.base
		maps.Copy(next.scopes, t.scopes)
	}
	if strings.Count(text, ",") >= maxDirectives {
		return nil, fmt.Errorf("more than %d log levels", maxDirectives)
	}
	for directive := range strings.SplitSeq(text, ",") {
		directive = strings.TrimSpace(directive)
		if directive == "" {
			continue
		}
		if err := next.apply(directive); err != nil {
			return nil, err
		}
	}
	if len(next.scopes) > maxDirectives {
		return nil, fmt.Errorf("log levels for more than %d scopes; reset them first", maxDirectives)
	}
	return next, nil
}

func (t *levelTable) apply(directive string) error {
	scope, name, scoped := strings.Cut(directive, "=")
	if !scoped {
		scope, name = "", directive
	}
	level, ok := parseLevel(name)
	if !ok {
		return fmt.Errorf("log level %q is not one of trace, debug, info, warn, error, off", bounded(name))
	}
	if !scoped {
		t.base = level
		return nil
	}
	if !validScope(scope) {
		return fmt.Errorf("log scope %q: want letters, digits, '_', '-', '.' and ':'", bounded(scope))
	}
	t.scopes[scope] = level
	return nil
}

func validScope(scope string) bool {
	if scope == "" || len(scope) > maxScopeName {
		return false
	}
	for _, r := range scope {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("_-.:", r):
		default:
			return false
		}
	}
	return true
}

func parseLevel(name string) (slog.Level, bool) {
	switch strings.ToLower(name) {
	case "trace":
		return levelTrace, true
	case "debug":
		return slog.LevelDebug, true
	case "info":
		return slog.LevelInfo, true
	case "warn", "warning":
		return slog.LevelWarn, true
	case "error":
		return slog.LevelError, true
	case "off":
		return levelOff, true
	}
	return 0, false
}

func levelName(level slog.Level) string {
	switch {
	case level < slog.LevelDebug:
		return "trace"
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warn"
	case level < levelOff:
		return "error"
	}
	return "off"
}
