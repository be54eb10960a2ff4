package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Overlay is a ConfigMap with changes of objects: the keys name kinds, the values are strategic merge patches as YAML.
type Overlay struct {
	Name string // of the ConfigMap, for messages
	Data map[string]string
}

// maxOverlay bounds the text of a patch, in bytes.
const maxOverlay = 64 << 10

// askedFor returns the keys that occur. One that means nothing is a mistake that nobody would notice otherwise.
func askedFor(overlays []Overlay) (map[string]bool, error) {
	asked := make(map[string]bool)
	var known []string
	for _, k := range kinds {
		known = append(known, k.key)
	}
	for _, o := range overlays {
		for _, key := range slices.Sorted(maps.Keys(o.Data)) {
			if !slices.Contains(known, key) {
				return nil, refuse(invalidParameters, "ConfigMap %s: key %.100q means nothing: want %s", o.Name, key, strings.Join(known, ", "))
			}
			asked[key] = true
		}
	}
	return asked, nil
}

// apply changes an object.
func (o Overlay) apply(k *kind, object map[string]any) (map[string]any, error) {
	text, ok := o.Data[k.key]
	if !ok {
		return object, nil
	}
	changed, err := merge(k, object, text)
	if err != nil {
		return nil, refuse(invalidParameters, "ConfigMap %s: %s: %.1000s", o.Name, k.key, err.Error())
	}
	return changed, nil
}

func merge(k *kind, object map[string]any, text string) (map[string]any, error) {
	if len(text) > maxOverlay {
		return nil, fmt.Errorf("it has %d bytes, and at most %d are read", len(text), maxOverlay)
	}
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return nil, err
	}
	var patch map[string]any
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, fmt.Errorf("want fields of a %s, as in spec: {…}", k.Kind)
	}
	if len(patch) == 0 {
		return object, nil
	}
	if err := checkPatch(k, patch, data); err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergeMapPatch(runtime.DeepCopyJSON(object), patch, k.typed())
	if err != nil {
		return nil, err
	}
	for _, path := range slices.Concat(fixed, k.fixed) {
		if !reflect.DeepEqual(at(object, path), at(merged, path)) {
			return nil, fmt.Errorf("%s can't be changed", strings.Join(path, "."))
		}
	}
	return merged, strict(k, merged)
}

// checkPatch finds what has another type than the field has. Of the metadata, only labels and annotations can be changed.
func checkPatch(k *kind, patch map[string]any, data []byte) error {
	if metadata, ok := patch["metadata"].(map[string]any); ok {
		for _, field := range slices.Sorted(maps.Keys(metadata)) {
			if field != "labels" && field != "annotations" && field != "name" {
				return fmt.Errorf("metadata.%.100s can't be changed, only labels and annotations", field)
			}
		}
	}
	return kjson.UnmarshalCaseSensitivePreserveInts(data, k.typed())
}

// strict refuses fields that aren't there.
func strict(k *kind, object map[string]any) error {
	data, err := json.Marshal(object)
	if err != nil {
		return err
	}
	unknown, err := kjson.UnmarshalStrict(data, k.typed())
	if err == nil && len(unknown) > 0 {
		err = unknown[0]
	}
	return err
}

// at returns what is at the path, or nil.
func at(tree map[string]any, path []string) any {
	var value any = tree
	for _, name := range path {
		node, _ := value.(map[string]any)
		if value = node[name]; value == nil {
			return nil
		}
	}
	return value
}
