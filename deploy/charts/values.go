package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is one that a chart's values.yaml names.
type value struct {
	path  string // such as global.hub
	deflt any
	text  string // what is said of it
}

// documented reads what a values.yaml says in its comments: a line that begins with -- says what a value is for, and one with
// @schema what it may be beside what its default shows. A map that is described is a value itself, and may hold anything; of
// other maps the entries are the values.
func documented(text []byte) (values []value, schema map[string]any, err error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, nil, err
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		return nil, nil, fmt.Errorf("values.yaml has no map")
	}
	schema, err = entries("", document.Content[0], &values)
	return values, schema, err
}

func entries(path string, of *yaml.Node, values *[]value) (map[string]any, error) {
	properties := map[string]any{}
	for i := 0; i < len(of.Content); i += 2 {
		key, node := of.Content[i], of.Content[i+1]
		one := value{path: strings.TrimPrefix(path+"."+key.Value, ".")}
		var allowed map[string]any
		var err error
		if one.text, allowed, err = comment(key.HeadComment); err != nil {
			return nil, fmt.Errorf("comment of %s: %w", one.path, err)
		}
		if node.Kind == yaml.MappingNode && len(node.Content) > 0 && one.text == "" {
			if properties[key.Value], err = entries(one.path, node, values); err != nil {
				return nil, err
			}
			continue
		}
		if err := node.Decode(&one.deflt); err != nil {
			return nil, fmt.Errorf("%s: %w", one.path, err)
		}
		*values = append(*values, one)
		if properties[key.Value], err = single(one, node.Tag, allowed); err != nil {
			return nil, err
		}
	}
	// Charts share what is global, and of a chart's charts the values are under their names: those are not for this one to know.
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": path == "global"}, nil
}

var types = map[string]string{"!!str": "string", "!!int": "integer", "!!bool": "boolean", "!!seq": "array", "!!map": "object"}

// single is the schema of a value.
func single(one value, tag string, allowed map[string]any) (map[string]any, error) {
	schema := map[string]any{}
	if kind, known := types[tag]; known && allowed["enum"] == nil {
		schema["type"] = kind
	}
	maps.Copy(schema, allowed)
	if len(schema) == 0 {
		return nil, fmt.Errorf("%s: its default doesn't tell what it may be: say so by @schema", one.path)
	}
	if one.text != "" {
		schema["description"] = one.text
	}
	return schema, nil
}

// comment takes the last paragraph of comments apart: those before are about more than one value.
func comment(text string) (says string, schema map[string]any, err error) {
	paragraphs := strings.Split(text, "\n\n")
	for _, line := range strings.Split(paragraphs[len(paragraphs)-1], "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(line, "#"))
		if words, ok := strings.CutPrefix(line, "-- "); ok {
			says = words
		} else if words, ok := strings.CutPrefix(line, "@schema "); ok {
			err = yaml.Unmarshal([]byte(words), &schema)
		}
	}
	return says, schema, err
}

// table lists values for a README.
func table(values []value) (string, error) {
	out := "| value | default | |\n|---|---|---|\n"
	for _, one := range values {
		shown, err := json.Marshal(one.deflt)
		if err != nil {
			return "", fmt.Errorf("%s: %w", one.path, err)
		}
		out += fmt.Sprintf("| `%s` | `%s` | %s |\n", one.path, shown, strings.ReplaceAll(one.text, "|", `\|`))
	}
	return out, nil
}

// schemaFile is values.schema.json of a chart with these charts in it.
func schemaFile(schema map[string]any, charts []string) ([]byte, error) {
	properties := schema["properties"].(map[string]any)
	for _, name := range charts {
		properties[name] = map[string]any{"type": "object", "description": "Values of the chart " + name + "."}
	}
	schema = maps.Clone(schema)
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	out, err := json.MarshalIndent(schema, "", "  ")
	return append(out, '\n'), err
}

// readme replaces the table of a README, which is its end.
func readme(text string, values []value) (string, error) {
	const heading = "## Values\n\n"
	before, _, found := strings.Cut(text, heading)
	if !found {
		return "", fmt.Errorf("README.md has no heading %q", strings.TrimSpace(heading))
	}
	listed, err := table(slices.Clone(values))
	return before + heading + listed, err
}
