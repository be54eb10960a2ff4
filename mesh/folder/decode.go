package folder

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decode fills into, a pointer to a struct, from a document.
func decode(document Document, into any) error {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("decode %s: want a pointer, have %T", document.File, into)
	}
	d := decoder{file: document.File, fields: document.fields}
	return d.value(document.root, target.Elem(), "", document.root.Line)
}

// decoder goes down the YAML tree and the Go type side by side, so it knows the line of whatever doesn't fit.
type decoder struct {
	file   string
	fields fieldCache
}

// fieldCache keeps where a struct's fields are, by their JSON names.
type fieldCache map[reflect.Type]map[string][]int

func (d decoder) fail(line int, path, format string, args ...any) error {
	return &Error{File: d.file, Line: line, Field: path, Err: fmt.Errorf(format, args...)}
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value stores what the node says. line is that of the key, where there is one.
func (d decoder) value(node *yaml.Node, into reflect.Value, path string, line int) error {
	node = resolve(node)
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		return nil
	}
	if into.Kind() == reflect.Pointer {
		if into.IsNil() {
			into.Set(reflect.New(into.Type().Elem()))
		}
		return d.value(node, into.Elem(), path, line)
	}
	if own := into.Addr(); own.Type().Implements(jsonUnmarshaler) || own.Type().Implements(textUnmarshaler) {
		return d.foreign(node, own.Interface(), path, line)
	}
	switch into.Kind() {
	case reflect.Interface:
		return d.foreign(node, into.Addr().Interface(), path, line)
	case reflect.Struct:
		return d.object(node, into, path, line)
	case reflect.Map:
		return d.table(node, into, path, line)
	case reflect.Slice:
		if into.Type().Elem().Kind() == reflect.Uint8 {
			return d.bytes(node, into, path, line)
		}
		return d.list(node, into, path, line)
	default:
		return d.scalar(node, into, path, line)
	}
}

// foreign leaves the part to the type's own reader.
func (d decoder) foreign(node *yaml.Node, into any, path string, line int) error {
	w := jsonWriter{line: node.Line}
	w.value(node)
	err := json.Unmarshal(w.buf, into)
	if err == nil {
		return nil
	}
	// A reader that knows the line within its part says so: its part begins at the node.
	var located interface{ JSONLine() int }
	if errors.As(err, &located) {
		line = node.Line + located.JSONLine() - 1
	}
	return d.fail(line, path, "%w", err)
}

func (d decoder) object(node *yaml.Node, into reflect.Value, path string, line int) error {
	if node.Kind != yaml.MappingNode {
		return d.fail(line, path, "want an object, have %s", describe(node))
	}
	fields := d.fields.of(into.Type())
	seen := make(map[string]bool, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		at := join(path, key.Value)
		index, ok := fields[key.Value]
		switch {
		case !ok:
			return d.fail(key.Line, at, "unknown field%s", suggest(key.Value, fields))
		case seen[key.Value]:
			return d.fail(key.Line, at, "field is there twice")
		}
		seen[key.Value] = true
		if err := d.value(node.Content[i+1], into.FieldByIndex(index), at, key.Line); err != nil {
			return err
		}
	}
	return nil
}

func (d decoder) table(node *yaml.Node, into reflect.Value, path string, line int) error {
	if node.Kind != yaml.MappingNode {
		return d.fail(line, path, "want an object, have %s", describe(node))
	}
	if into.Type().Key().Kind() != reflect.String {
		return d.fail(line, path, "keys of type %s can't be read", into.Type().Key())
	}
	table := reflect.MakeMapWithSize(into.Type(), len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		at := join(path, key.Value)
		name := reflect.ValueOf(key.Value).Convert(into.Type().Key())
		if table.MapIndex(name).IsValid() {
			return d.fail(key.Line, at, "key is there twice")
		}
		element := reflect.New(into.Type().Elem()).Elem()
		if err := d.value(node.Content[i+1], element, at, key.Line); err != nil {
			return err
		}
		table.SetMapIndex(name, element)
	}
	into.Set(table)
	return nil
}

func (d decoder) list(node *yaml.Node, into reflect.Value, path string, line int) error {
	if node.Kind != yaml.SequenceNode {
		return d.fail(line, path, "want a list, have %s", describe(node))
	}
	list := reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content))
	for i, element := range node.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		if err := d.value(element, list.Index(i), at, element.Line); err != nil {
			return err
		}
	}
	into.Set(list)
	return nil
}

func (d decoder) bytes(node *yaml.Node, into reflect.Value, path string, line int) error {
	if node.Kind != yaml.ScalarNode {
		return d.fail(line, path, "want a string in base64, have %s", describe(node))
	}
	data, err := base64.StdEncoding.DecodeString(node.Value)
	if err != nil {
		return d.fail(line, path, "want a string in base64: %w", err)
	}
	into.SetBytes(data)
	return nil
}

func (d decoder) scalar(node *yaml.Node, into reflect.Value, path string, line int) error {
	tag := node.ShortTag()
	wrong := d.fail(line, path, "want %s, have %s", into.Kind(), describe(node))
	if node.Kind != yaml.ScalarNode {
		return wrong
	}
	var err error
	switch kind := into.Kind(); {
	case kind == reflect.String && (tag == "!!str" || tag == "!!timestamp"):
		into.SetString(node.Value)
	case kind == reflect.Bool && tag == "!!bool":
		into.SetBool(strings.EqualFold(node.Value, "true"))
	case into.CanInt() && tag == "!!int":
		var number int64
		number, err = strconv.ParseInt(node.Value, 0, into.Type().Bits())
		into.SetInt(number)
	case into.CanUint() && tag == "!!int":
		var number uint64
		number, err = strconv.ParseUint(node.Value, 0, into.Type().Bits())
		into.SetUint(number)
	case into.CanFloat() && (tag == "!!int" || tag == "!!float"):
		var number float64
		number, err = strconv.ParseFloat(node.Value, into.Type().Bits())
		into.SetFloat(number)
	default:
		return wrong
	}
	if err != nil {
		return d.fail(line, path, "want %s: %w", into.Kind(), err)
	}
	return nil
}

// of lists a struct's fields by their JSON names, those of embedded structs included.
func (c fieldCache) of(t reflect.Type) map[string][]int {
	if known, ok := c[t]; ok {
		return known
	}
	fields := make(map[string][]int, t.NumField())
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		embedded := field.Anonymous && name == ""
		if name == "-" || embedded || !field.IsExported() {
			continue
		}
		if name == "" {
			name = field.Name
		}
		if other, taken := fields[name]; !taken || len(field.Index) < len(other) {
			fields[name] = field.Index
		}
	}
	c[t] = fields
	return fields
}

// suggest names the field that was meant if only its case is wrong.
func suggest(name string, fields map[string][]int) string {
	for candidate := range fields {
		if strings.EqualFold(candidate, name) {
			return fmt.Sprintf(", did you mean %q?", candidate)
		}
	}
	return ""
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// describe names what stands in the file, for a message.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	value := node.Value
	if runes := []rune(value); len(runes) > 40 {
		value = string(runes[:40]) + "…"
	}
	if slices.Contains([]string{"!!int", "!!float"}, node.ShortTag()) {
		return "the number " + value
	}
	if node.ShortTag() == "!!bool" {
		return "the boolean " + value
	}
	return strconv.Quote(value)
}
