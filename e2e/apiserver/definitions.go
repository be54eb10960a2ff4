package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Definitions is a set of custom resource definitions, out of the library that defines their Go types.
type Definitions struct {
	module string // with its version
	files  string // pattern within the module
	loose  bool
}

var (
	// IstioCRDs are all of Istio's.
	IstioCRDs = Definitions{module: "istio.io/api@v1.31.1", files: "kubernetes/customresourcedefinitions.gen.yaml"}
	// GatewayCRDs are all of the standard channel of Gateway API.
	GatewayCRDs = Definitions{module: "sigs.k8s.io/gateway-api@v1.6.3", files: "config/crd/standard/*.yaml"}
)

// Loose returns the set without schemas: the API server then takes any object of these kinds, as one with older or
// edited definitions may.
func (d Definitions) Loose() Definitions {
	d.loose = true
	return d
}

// loosen takes the schemas of a definition away.
func loosen(definition *unstructured.Unstructured) error {
	versions, _, err := unstructured.NestedSlice(definition.Object, "spec", "versions")
	if err != nil {
		return err
	}
	for _, each := range versions {
		if version, ok := each.(map[string]any); ok {
			version["schema"] = map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}
		}
	}
	return unstructured.SetNestedSlice(definition.Object, versions, "spec", "versions")
}

// Install applies definitions and waits until they are served.
func (s *Server) Install(ctx context.Context, sets ...Definitions) error {
	for _, set := range sets {
		objects, err := set.read(ctx)
		if err != nil {
			return fmt.Errorf("resource definitions of %s: %w", set.module, err)
		}
		for _, object := range objects {
			if err := s.apply(ctx, object); err != nil {
				return fmt.Errorf("apply definition %s: %w", object.GetName(), err)
			}
		}
		for _, object := range objects {
			if err := s.established(ctx, object.GetName()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Uninstall deletes definitions, and all objects of their kinds.
func (s *Server) Uninstall(ctx context.Context, sets ...Definitions) error {
	for _, set := range sets {
		objects, err := set.read(ctx)
		if err != nil {
			return err
		}
		for _, object := range objects {
			if err := s.Delete(ctx, fmt.Sprintf("{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %s}}", object.GetName())); err != nil {
				return err
			}
		}
	}
	return nil
}

// read finds the files in Go's module cache.
func (d Definitions) read(ctx context.Context) ([]*unstructured.Unstructured, error) {
	dir, err := moduleDir(ctx, d.module)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, d.files))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no file %s in %s (%w)", d.files, dir, err)
	}
	var found []*unstructured.Unstructured
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		objects, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, object := range objects {
			if object.GetKind() != definition.Kind {
				continue
			}
			if d.loose {
				if err := loosen(object); err != nil {
					return nil, err
				}
			}
			found = append(found, object)
		}
	}
	return found, nil
}

// dirs are the folders of modules, which don't change.
var dirs sync.Map

func moduleDir(ctx context.Context, module string) (string, error) {
	if dir, known := dirs.Load(module); known {
		return dir.(string), nil
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Dir = os.TempDir() // not in a module of ours, whose go.sum it would change
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	var answer struct{ Dir, Error string }
	if decoding := json.Unmarshal(out, &answer); err == nil {
		err = decoding
	}
	if err != nil || answer.Dir == "" {
		return "", fmt.Errorf("go mod download %s: %w %s%s", module, err, answer.Error, strings.TrimSpace(complaint.String()))
	}
	dirs.Store(module, answer.Dir)
	return answer.Dir, nil
}
