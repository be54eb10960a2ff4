package model

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"unique"
)

// Labels is a set of labels, or of those that a selector asks for; it doesn't change. Equal sets are kept once, since
// most pods have the labels of their siblings, and compare with ==.
type Labels struct{ packed unique.Handle[string] }

// Label is one of them.
type Label struct{ Key, Value string }

// end ends each key and each value of packed labels. No valid key or value has it.
const end = "\x00"

// LabelsOf makes labels of a map.
func LabelsOf(all map[string]string) Labels {
	var packed strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if value := all[key]; !strings.Contains(key+value, end) {
			packed.WriteString(key + end + value + end)
		}
	}
	if packed.Len() == 0 {
		return Labels{}
	}
	return Labels{unique.Make(packed.String())}
}

// All yields the labels ordered by key.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for rest := l.text(); rest != ""; {
			var key, value string
			key, rest, _ = strings.Cut(rest, end)
			value, rest, _ = strings.Cut(rest, end)
			if !yield(key, value) {
				return
			}
		}
	}
}

func (l Labels) text() string {
	if l.Empty() {
		return ""
	}
	return l.packed.Value()
}

// Empty tells whether there are none.
func (l Labels) Empty() bool { return l == Labels{} }

// Lookup returns the value of a label, and whether it is there.
func (l Labels) Lookup(key string) (string, bool) {
	for each, value := range l.All() {
		if each == key {
			return value, true
		}
	}
	return "", false
}

// Get returns the value of a label; empty if it isn't there.
func (l Labels) Get(key string) string {
	value, _ := l.Lookup(key)
	return value
}

// Selects tells whether the others have every label of these.
func (l Labels) Selects(labels Labels) bool {
	if l == labels {
		return true
	}
	for key, value := range l.All() {
		if have, ok := labels.Lookup(key); !ok || have != value {
			return false
		}
	}
	return true
}

// Equal is ==, for comparisons that can't look into labels.
func (l Labels) Equal(other Labels) bool { return l == other }

// String returns "key=value,key=value".
func (l Labels) String() string {
	var list []string
	for key, value := range l.All() {
		list = append(list, key+"="+value)
	}
	return strings.Join(list, ",")
}

// MarshalText writes what String returns.
func (l Labels) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Selector chooses objects by their labels. One without labels and requirements chooses all.
type Selector struct {
	Labels Labels
	Also   []Requirement
}

// Requirement is one thing that a selector asks of labels.
type Requirement struct {
	Key    string
	Op     Operator
	Values []string
}

// Operator is what a requirement asks for.
type Operator string

// The operators, written as Kubernetes does. One that isn't known never holds.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Matches tells whether the selector chooses an object of these labels.
func (s *Selector) Matches(labels Labels) bool {
	if !s.Labels.Selects(labels) {
		return false
	}
	return !slices.ContainsFunc(s.Also, func(r Requirement) bool { return !r.holds(labels) })
}

func (r *Requirement) holds(labels Labels) bool {
	value, there := labels.Lookup(r.Key)
	switch r.Op {
	case In:
		return there && slices.Contains(r.Values, value)
	case NotIn:
		return !there || !slices.Contains(r.Values, value)
	case Exists:
		return there
	case DoesNotExist:
		return !there
	}
	return false
}
