package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/index"
	"github.com/tulle-mesh/tulle/waypoint/target"
)

type textKind uint8

const (
	exactText textKind = iota
	prefixText
	suffixText
	presentText
	templateText
)

// text is a test of an attribute's value.
type text struct {
	kind     textKind
	value    string
	template template
	port     bool // of hosts: it is compared with host and port
}

func newText(a attribute, m *l7.StringMatch) (t text, err error) {
	switch match := m.GetMatch().(type) {
	case *l7.StringMatch_Exact:
		t = text{kind: exactText, value: match.Exact}
	case *l7.StringMatch_Prefix:
		t = text{kind: prefixText, value: match.Prefix}
	case *l7.StringMatch_Suffix:
		t = text{kind: suffixText, value: match.Suffix}
	case *l7.StringMatch_Present:
		if a == attribute(l7.Condition_REQUEST_HEADER) { // which is there even if it is empty
			return text{kind: prefixText}, nil
		}
		return text{kind: presentText}, nil
	case *l7.StringMatch_Template:
		t = text{kind: templateText, value: match.Template}
	default:
		return text{}, errors.New("a kind of match that isn't known")
	}
	switch a {
	case path:
		if t.value, err = target.Spell(t.value); err != nil {
			return text{}, fmt.Errorf("path %q: %w", t.value, err)
		}
	case host:
		t.value = strings.ToLower(t.value)
		if t.kind == prefixText { // which may end anywhere
			t.port = true
			return t, nil
		}
		name, port := target.SplitHost(t.value)
		if t.port = port != ""; !t.port {
			t.value = name
		}
	}
	if t.kind == templateText {
		t.template, err = newTemplate(t.value)
	}
	return t, err
}

// fits is about a value that is there.
func (t *text) fits(value string) bool {
	switch t.kind {
	case exactText:
		return value == t.value
	case prefixText:
		return strings.HasPrefix(value, t.value)
	case suffixText:
		return strings.HasSuffix(value, t.value)
	case templateText:
		return t.template.fits(value)
	}
	return value != ""
}

// texts are tests of one attribute; they fit if any of them does.
type texts struct {
	exact map[string]bool
	rest  []text // those that aren't exact
	// decoded are the same, of paths whose escapes are replaced; nil if no text has any.
	decoded *texts
}

func (t *texts) add(one text) {
	if one.kind != exactText {
		t.rest = append(t.rest, one)
		return
	}
	if t.exact == nil {
		t.exact = map[string]bool{}
	}
	t.exact[one.value] = true
}

func (t *texts) empty() bool { return len(t.exact)+len(t.rest) == 0 }

// fits is about a value that is there.
func (t *texts) fits(value string) bool {
	return t.exact[value] || slices.ContainsFunc(t.rest, func(one text) bool { return one.fits(value) })
}

// decode makes the tests of decoded paths.
func (t *texts) decode() {
	out := &texts{}
	escaped := false
	for value := range t.exact {
		out.add(text{kind: exactText, value: target.Decode(value)})
		escaped = escaped || strings.Contains(value, "%")
	}
	for _, one := range t.rest {
		escaped = escaped || strings.Contains(one.value, "%")
		one.value = target.Decode(one.value)
		if one.kind == templateText {
			one.template = one.template.decoded()
		}
		out.rest = append(out.rest, one)
	}
	if escaped {
		t.decoded = out
	}
}

// of are the tests for a path as the view has it.
func (t *texts) of(f *view) *texts {
	if f.decoded && t.decoded != nil {
		return t.decoded
	}
	return t
}

// fitsHost compares what has a port with the authority, else with its host. Without an authority nothing fits.
func (t *texts) fitsHost(authority, host string) bool {
	if authority == "" {
		return false
	}
	return t.exact[host] || t.exact[authority] || slices.ContainsFunc(t.rest, func(one text) bool {
		if one.port {
			return one.fits(authority)
		}
		return one.fits(host)
	})
}

// pathKey is the key of paths that begin as the text does.
func (t *text) pathKey() (index.Key, bool) {
	switch t.kind {
	case prefixText:
		return index.PrefixKey(t.value)
	case templateText:
		literal, _, _ := strings.Cut(t.value, "{")
		return index.PrefixKey(literal)
	}
	return index.Key{}, false
}

const (
	oneElement  = "{*}"
	anyElements = "{**}"
)

// template is of a path: {*} is one element that isn't empty, {**} is any number of characters behind a slash.
type template struct {
	before, after []string // the elements of both sides of {**}; without it all are before
	open          bool     // there is {**}
}

func newTemplate(value string) (t template, err error) {
	elements := strings.Split(value, "/")
	for i, element := range elements {
		switch {
		case element == anyElements && t.open:
			return template{}, fmt.Errorf("path template %q has {**} more than once", value)
		case element == anyElements:
			t.open = true
			t.before, t.after = elements[:i], elements[i+1:]
		case element != oneElement && strings.ContainsAny(element, "{}*"):
			return template{}, fmt.Errorf("path template %q: want {*} or {**} as a whole element, or none of its characters", value)
		}
	}
	if elements[0] != "" {
		return template{}, fmt.Errorf("path template %q doesn't begin with a slash", value)
	}
	if !t.open {
		t.before = elements
	}
	return t, nil
}

// decoded is the template of decoded paths.
func (t template) decoded() template {
	decode := func(elements []string) (out []string) {
		for _, element := range elements {
			out = append(out, target.Decode(element))
		}
		return out
	}
	t.before, t.after = decode(t.before), decode(t.after)
	return t
}

func (t *template) fits(path string) bool {
	rest, more := path, true // more: there is an element in rest, maybe an empty one
	for _, want := range t.before {
		if !more {
			return false
		}
		var element string
		if element, rest, more = strings.Cut(rest, "/"); !fitsElement(want, element) {
			return false
		}
	}
	if !t.open {
		return !more
	}
	for i := len(t.after) - 1; i >= 0; i-- {
		slash := strings.LastIndexByte(rest, '/')
		if !more || slash < 0 || !fitsElement(t.after[i], rest[slash+1:]) {
			return false
		}
		rest = rest[:slash]
	}
	return more
}

func fitsElement(want, element string) bool {
	if want == oneElement {
		return element != ""
	}
	return want == element
}
