package table

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/waypoint/jwt"
)

// Read reads resources from a file that takes the place of a control plane: YAML, in whose field "resources" each has its name and the fields of
// l7.proto in camelCase. Other fields are for others. What a control plane could send and a builder would refuse by is an error here, with the line.
func Read(data []byte) (map[string]*l7.Resource, error) {
	var file struct {
		Resources map[string]yaml.Node `yaml:"resources"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	keys := jwt.NewKeys(&http.Client{}, slog.New(slog.DiscardHandler))
	keys.Close() // so that none are fetched
	trial := NewBuilder("", "", keys)
	out := map[string]*l7.Resource{}
	for _, name := range slices.Sorted(maps.Keys(file.Resources)) {
		node := file.Resources[name]
		r, err := decode(&node)
		if err == nil {
			err = trial.Set(name, r, time.Time{})
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: resource %s: %w", node.Line, name, err)
		}
		out[name] = r
	}
	return out, nil
}

func decode(node *yaml.Node) (*l7.Resource, error) {
	var fields map[string]any
	if err := node.Decode(&fields); err != nil {
		return nil, err
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	r := &l7.Resource{}
	if err := protojson.Unmarshal(text, r); err != nil {
		return nil, err
	}
	if len(r.GetTargets()) == 0 {
		return nil, errors.New("it has no targets")
	}
	return r, nil
}

// Replace takes resources in, and forgets all others.
func (b *Builder) Replace(resources map[string]*l7.Resource, now time.Time) error {
	var problems []error
	for name := range b.resources {
		if resources[name] == nil {
			b.Remove(name)
		}
	}
	for name, r := range resources {
		problems = append(problems, b.Set(name, r, now))
	}
	return errors.Join(problems...)
}
