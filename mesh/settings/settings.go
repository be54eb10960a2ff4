// Package settings reads what programs of a mesh are told by environment variables, under Istio's names: variables of any kind, and those
// that all proxies have in common.
package settings

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Env reads variables and collects what is wrong with them, so that a user sees all mistakes at once.
type Env struct {
	vars map[string]string
	errs []error
}

// New takes variables of the form NAME=value, as os.Environ returns them.
func New(environ []string) *Env {
	e := &Env{vars: make(map[string]string, len(environ))}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			e.vars[name] = value
		}
	}
	return e
}

// Err returns everything that is wrong.
func (e *Env) Err() error {
	if err := errors.Join(e.errs...); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	return nil
}

// Fail notes that a variable is wrong, and what to do about it.
func (e *Env) Fail(name, remedy string) {
	e.errs = append(e.errs, errors.New(name+": "+remedy))
}

// Lookup returns a variable that is set and not empty.
func (e *Env) Lookup(name string) (string, bool) {
	value := e.vars[name]
	return value, value != ""
}

// Set gives a variable a value, unless it has one.
func (e *Env) Set(name, value string) {
	if _, set := e.vars[name]; !set {
		e.vars[name] = value
	}
}

// Given returns a variable that is there, even if it is empty.
func (e *Env) Given(name string) (string, bool) {
	value, given := e.vars[name]
	return value, given
}

// Text returns a variable, or the fallback where it isn't set; so do the following.
func (e *Env) Text(name, fallback string) string {
	if value, set := e.Lookup(name); set {
		return value
	}
	return fallback
}

// OneOf takes the first choice when the variable isn't set.
func (e *Env) OneOf(name string, choices ...string) string {
	value := e.Text(name, choices[0])
	if !slices.Contains(choices, value) {
		e.Fail(name, fmt.Sprintf("%q is none of %s", value, strings.Join(choices, ", ")))
	}
	return value
}

// Boolean is true or false.
func (e *Env) Boolean(name string, fallback bool) bool {
	value, set := e.Lookup(name)
	if !set {
		return fallback
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		e.Fail(name, fmt.Sprintf("%q is neither true nor false", value))
	}
	return b
}

// Number is from least to most.
func (e *Env) Number(name string, fallback, least, most int) int {
	value, set := e.Lookup(name)
	if !set {
		return fallback
	}
	n, err := strconv.ParseInt(value, 0, 64)
	if err != nil || n < int64(least) || n > int64(most) {
		e.Fail(name, fmt.Sprintf("%q is no whole number from %d to %d", value, least, most))
		return fallback
	}
	return int(n)
}

// Duration is more than 0 and at most ten years.
func (e *Env) Duration(name string, fallback time.Duration) time.Duration {
	value, set := e.Lookup(name)
	if !set {
		return fallback
	}
	return e.ParseDuration(name, value)
}

// ParseDuration is Duration of a text that a variable has.
func (e *Env) ParseDuration(name, value string) time.Duration {
	d, ok := parseDuration(value)
	if !ok || d <= 0 || d > 10*365*24*time.Hour {
		e.Fail(name, fmt.Sprintf("%q is no duration such as 30s, 5m, 1h30m or 1d", value))
	}
	return d
}

// Prefixed returns the variables with a prefix, without it, in the order of their names.
func (e *Env) Prefixed(prefix string) (names []string, values map[string]string) {
	values = map[string]string{}
	for name, value := range e.vars {
		if rest, ok := strings.CutPrefix(name, prefix); ok && rest != "" {
			values[rest] = value
		}
	}
	return slices.Sorted(maps.Keys(values)), values
}

// CPUs reads a Kubernetes quantity such as 2, 0.5 or 1500m, rounded up.
func (e *Env) CPUs(name string, fallback int) int {
	value, set := e.Lookup(name)
	if !set {
		return fallback
	}
	number, milli := strings.CutSuffix(value, "m")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || n > 1e6 || math.IsNaN(n) {
		e.Fail(name, fmt.Sprintf("%q is no amount of CPUs such as 2 or 500m", value))
		return fallback
	}
	if milli {
		n /= 1000
	}
	if n == 0 {
		return fallback
	}
	return int(math.Ceil(n))
}
