package folder

import (
	"encoding/json"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// jsonWriter writes YAML as JSON, with a line break wherever the file has one: a reader that complains about line 3 of
// its JSON complains about the third line of its part of the file. Aliases stand where they are used, so what follows
// one may come out lower.
type jsonWriter struct {
	buf  []byte
	line int // of the file
}

func (w *jsonWriter) value(node *yaml.Node) {
	w.reach(node.Line)
	node = resolve(node)
	switch node.Kind {
	case yaml.MappingNode:
		w.buf = append(w.buf, '{')
		for i := 0; i+1 < len(node.Content); i += 2 {
			if i > 0 {
				w.buf = append(w.buf, ',')
			}
			w.reach(node.Content[i].Line)
			w.string(node.Content[i].Value)
			w.buf = append(w.buf, ':')
			w.value(node.Content[i+1])
		}
		w.buf = append(w.buf, '}')
	case yaml.SequenceNode:
		w.buf = append(w.buf, '[')
		for i, element := range node.Content {
			if i > 0 {
				w.buf = append(w.buf, ',')
			}
			w.value(element)
		}
		w.buf = append(w.buf, ']')
	default:
		w.scalar(node)
	}
}

// reach breaks lines until the line of the file.
func (w *jsonWriter) reach(line int) {
	for ; w.line < line; w.line++ {
		w.buf = append(w.buf, '\n')
	}
}

func (w *jsonWriter) scalar(node *yaml.Node) {
	switch node.ShortTag() {
	case "!!null":
		w.buf = append(w.buf, "null"...)
	case "!!bool":
		w.buf = append(w.buf, strings.ToLower(node.Value)...)
	case "!!int":
		if number, err := strconv.ParseInt(node.Value, 0, 64); err == nil {
			w.buf = strconv.AppendInt(w.buf, number, 10)
			return
		}
		w.number(node)
	case "!!float":
		w.number(node)
	default:
		w.string(node.Value)
	}
}

// number writes what JSON can hold as a number, and the rest (.inf, .nan, 60 digits) as a string for the reader to judge.
func (w *jsonWriter) number(node *yaml.Node) {
	number, err := strconv.ParseFloat(node.Value, 64)
	if err == nil {
		if text, err := json.Marshal(number); err == nil {
			w.buf = append(w.buf, text...)
			return
		}
	}
	w.string(node.Value)
}

func (w *jsonWriter) string(value string) {
	text, _ := json.Marshal(value) // a string always has a JSON form
	w.buf = append(w.buf, text...)
}
