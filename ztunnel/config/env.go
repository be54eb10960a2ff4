package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// env reads variables and collects what is wrong with them, so that a user sees all mistakes at once.
type env struct {
	vars map[string]string
	errs []error
}

func newEnv(environ []string) *env {
	e := &env{vars: make(map[string]string, len(environ))}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			e.vars[name] = value
		}
	}
	return e
}

func (e *env) fail(name, remedy string) {
	e.errs = append(e.errs, errors.New(name+": "+remedy))
}

// lookup returns a variable that is set and not empty.
func (e *env) lookup(name string) (string, bool) {
	value := e.vars[name]
	return value, value != ""
}

func (e *env) text(name, fallback string) string {
	if value, set := e.lookup(name); set {
		return value
	}
	return fallback
}

// oneOf takes the first choice when the variable isn't set.
func (e *env) oneOf(name string, choices ...string) string {
	value := e.text(name, choices[0])
	if !slices.Contains(choices, value) {
		e.fail(name, fmt.Sprintf("%q is none of %s", value, strings.Join(choices, ", ")))
	}
	return value
}

func (e *env) boolean(name string, fallback bool) bool {
	value, set := e.lookup(name)
	if !set {
		return fallback
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		e.fail(name, fmt.Sprintf("%q is neither true nor false", value))
	}
	return b
}

func (e *env) number(name string, fallback, least, most int) int {
	value, set := e.lookup(name)
	if !set {
		return fallback
	}
	n, err := strconv.ParseInt(value, 0, 64)
	if err != nil || n < int64(least) || n > int64(most) {
		e.fail(name, fmt.Sprintf("%q is no whole number from %d to %d", value, least, most))
		return fallback
	}
	return int(n)
}

func (e *env) duration(name string, fallback time.Duration) time.Duration {
	value, set := e.lookup(name)
	if !set {
		return fallback
	}
	return e.parseDuration(name, value)
}

func (e *env) parseDuration(name, value string) time.Duration {
	d, ok := parseDuration(value)
	if !ok || d <= 0 || d > 10*365*24*time.Hour {
		e.fail(name, fmt.Sprintf("%q is no duration such as 30s, 5m, 1h30m or 1d", value))
	}
	return d
}

// prefixed returns the variables with a prefix, without it, in the order of their names.
func (e *env) prefixed(prefix string) (names []string, values map[string]string) {
	values = map[string]string{}
	for name, value := range e.vars {
		if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" {
			values[rest] = value
		}
	}
	return slices.Sorted(maps.Keys(values)), values
}
