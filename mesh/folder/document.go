package folder

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Error says where a file is wrong, and why.
type Error struct {
	File string
	// Line counts from 1; 0 means the file as a whole.
	Line int
	// Field is the path of the field, such as spec.ports[0].port, or empty.
	Field string
	Err   error
}

// Error gives file:line: field: reason.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Document is one object of a file.
type Document struct {
	// File is the path of the file: the folder's as it was given, and the name.
	File string
	// Line is where the object begins, counted from 1.
	Line int
	// APIVersion, Kind, Namespace and Name are as written, so each may be empty in a plain document.
	APIVersion, Kind, Namespace, Name string

	root   *yaml.Node // a mapping
	fields fieldCache // of the whole file
}

// Decode fills a struct from the document, by its JSON tags. It is strict: an unknown or repeated field is an error, and
// so is a value of another type. The error is an *Error with the line of the offending field. Types with an UnmarshalJSON
// of their own get their part as JSON whose line breaks are those of the file.
func (d Document) Decode(into any) error { return decode(d, into) }

// At makes an error of the reason why a field's value can't be used, with the line of that field or, where it isn't
// written, of the nearest that holds it. The path is as in spec.rules[0].from[1].source.
func (d Document) At(field string, err error) error {
	return &Error{File: d.File, Line: lineOf(d.root, field), Field: field, Err: err}
}

// lineOf walks down the path as far as it is written.
func lineOf(node *yaml.Node, path string) int {
	line := node.Line
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' }) {
		node = resolve(node)
		next := child(node, step)
		if next == nil {
			return line
		}
		node, line = next.value, next.line
	}
	return line
}

// place is a value and the line of what names it.
type place struct {
	value *yaml.Node
	line  int
}

// child finds a member by its key, or an element by its number and a closing bracket.
func child(node *yaml.Node, step string) *place {
	if number, ok := strings.CutSuffix(step, "]"); ok {
		index, err := strconv.Atoi(number)
		if err != nil || node.Kind != yaml.SequenceNode || index < 0 || index >= len(node.Content) {
			return nil
		}
		return &place{value: node.Content[index], line: node.Content[index].Line}
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == step {
			return &place{value: node.Content[i+1], line: node.Content[i].Line}
		}
	}
	return nil
}

// text returns the string at a path of keys, or "" where there is none.
func text(node *yaml.Node, keys ...string) (string, error) {
	for i, key := range keys {
		at := child(resolve(node), key)
		if at == nil {
			return "", nil
		}
		node = resolve(at.value)
		if i < len(keys)-1 {
			continue
		}
		if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!str" {
			return "", &Error{Line: at.line, Field: strings.Join(keys, "."), Err: fmt.Errorf("want a string")}
		}
	}
	return node.Value, nil
}

// resolve follows an alias to what it stands for.
func resolve(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}
