package folder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of one file. What exceeds them is an error, never cut off.
const (
	maxFile  = 1 << 20 // bytes
	maxNodes = 500_000 // with aliases counted as often as they are used
	maxDepth = 100     // of nesting
)

// parse reads the documents of a file. All of it is right, or it is an error.
func parse(file string, data []byte, plain bool) ([]Document, error) {
	if err := inspect(file, data); err != nil {
		return nil, err
	}
	p := parser{file: file, plain: plain, fields: make(fieldCache)}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return p.documents, nil
		}
		if err != nil {
			return nil, syntaxError(file, err)
		}
		if err := p.add(document.Content[0], 0); err != nil {
			return nil, err
		}
	}
}

// inspect refuses what isn't text, or is too much of it.
func inspect(file string, data []byte) error {
	switch {
	case len(data) > maxFile:
		return &Error{File: file, Err: fmt.Errorf("file exceeds %d bytes: split it", maxFile)}
	case len(bytes.TrimSpace(data)) == 0:
		// An editor that truncates before it writes; whoever wants the objects gone deletes the file.
		return &Error{File: file, Err: errors.New("file is empty: delete it to remove its objects")}
	case utf8.Valid(data):
		return nil
	}
	good := 0
	for good < len(data) {
		r, size := utf8.DecodeRune(data[good:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		good += size
	}
	line := 1 + bytes.Count(data[:good], []byte{'\n'})
	return &Error{File: file, Line: line, Err: errors.New("not UTF-8 text")}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntaxError takes the line out of the YAML library's text, which is where it keeps it.
func syntaxError(file string, err error) error {
	message := err.Error()
	at := yamlLine.FindStringSubmatch(message)
	if at == nil {
		return &Error{File: file, Err: err}
	}
	line, _ := strconv.Atoi(at[1])
	return &Error{File: file, Line: line, Err: errors.New(message[len(at[0]):])}
}

// parser collects the documents of one file.
type parser struct {
	file      string
	plain     bool
	nodes     int
	fields    fieldCache
	documents []Document
}

// add takes one document, or the items of a list.
func (p *parser) add(node *yaml.Node, depth int) error {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		return nil // between two separators, or only comments
	}
	if err := p.measure(node, depth); err != nil {
		return err
	}
	root := resolve(node)
	if root.Kind != yaml.MappingNode {
		return p.at(node.Line, "", errors.New("want an object"))
	}
	document := Document{File: p.file, Line: node.Line, root: root, fields: p.fields}
	if p.plain {
		p.documents = append(p.documents, document)
		return nil
	}
	return p.addObject(document, depth)
}

func (p *parser) addObject(document Document, depth int) error {
	for _, part := range []struct {
		into *string
		path []string
	}{
		{&document.APIVersion, []string{"apiVersion"}},
		{&document.Kind, []string{"kind"}},
		{&document.Namespace, []string{"metadata", "namespace"}},
		{&document.Name, []string{"metadata", "name"}},
	} {
		value, err := text(document.root, part.path...)
		if err != nil {
			err.(*Error).File = p.file
			return err
		}
		*part.into = value
	}
	items := child(document.root, "items")
	switch {
	case document.Kind == "":
		return p.at(document.Line, "kind", errors.New("missing"))
	case document.APIVersion == "":
		return p.at(document.Line, "apiVersion", errors.New("missing"))
	case strings.HasSuffix(document.Kind, "List") && items != nil:
		return p.addItems(items, depth)
	case document.Name == "":
		return p.at(document.Line, "metadata.name", errors.New("missing"))
	}
	p.documents = append(p.documents, document)
	return nil
}

func (p *parser) addItems(items *place, depth int) error {
	list := resolve(items.value)
	if list.Kind != yaml.SequenceNode {
		return p.at(items.line, "items", errors.New("want a list"))
	}
	for _, item := range list.Content {
		if err := p.add(item, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// measure walks everything that the node stands for. It bounds what aliases can blow up to, and stops at those that hold
// themselves.
func (p *parser) measure(node *yaml.Node, depth int) error {
	p.nodes++
	switch {
	case p.nodes > maxNodes:
		return p.at(node.Line, "", fmt.Errorf("more than %d values: split the file, or use fewer aliases", maxNodes))
	case depth > maxDepth:
		return p.at(node.Line, "", fmt.Errorf("nested deeper than %d", maxDepth))
	case node.Kind == yaml.AliasNode:
		return p.measure(node.Alias, depth+1)
	}
	for i, inner := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			if err := p.checkKey(inner); err != nil {
				return err
			}
		}
		if err := p.measure(inner, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) checkKey(key *yaml.Node) error {
	if key.Kind != yaml.ScalarNode {
		return p.at(key.Line, "", errors.New("a key must be a string"))
	}
	if key.ShortTag() == "!!merge" {
		return p.at(key.Line, "", errors.New("merge keys (<<) are not supported: write the fields out"))
	}
	return nil
}

func (p *parser) at(line int, field string, err error) error {
	return &Error{File: p.file, Line: line, Field: field, Err: err}
}
