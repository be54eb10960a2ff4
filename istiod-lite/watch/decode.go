package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/istiod-lite/decode"
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/folder"
	"github.com/tulle-mesh/tulle/mesh/status"
)

// decoder makes the model's objects of documents. It belongs to the goroutine of one folder.
type decoder struct {
	log     *slog.Logger
	kinds   map[groupKind]decode.Kind
	ignored map[string]bool // kinds that were logged
}

// groupKind names a kind without its version.
type groupKind struct{ group, kind string }

func newDecoder(log *slog.Logger) *decoder {
	d := &decoder{log: log, kinds: make(map[groupKind]decode.Kind), ignored: make(map[string]bool)}
	for _, kind := range decode.Kinds() {
		d.kinds[groupKind{kind.Group, kind.Kind}] = kind
	}
	return d
}

func (d *decoder) object(document folder.Document) (model.Object, bool, error) {
	group, _, named := strings.Cut(document.APIVersion, "/")
	if !named {
		group = ""
	}
	kind, known := d.kinds[groupKind{group, document.Kind}]
	if !known {
		d.ignore(document, group)
		return nil, false, nil
	}
	if versions := kind.APIVersions(); !slices.Contains(versions, document.APIVersion) {
		// Not one to ignore: a policy might deny something.
		return nil, false, document.At("apiVersion", fmt.Errorf("%s is not known: use %s", document.APIVersion, versions[0]))
	}
	object, err := kind.Read(document.Decode)
	var field *decode.Error
	if errors.As(err, &field) {
		err = document.At(field.Field, field.Err)
	}
	return object, err == nil && object != nil, err
}

// ignore logs a kind that isn't read, once.
func (d *decoder) ignore(document folder.Document, group string) {
	kind := document.APIVersion + "/" + document.Kind
	if d.ignored[kind] {
		return
	}
	d.ignored[kind] = true
	level := slog.LevelInfo
	if group != "" && d.knownGroup(group) {
		level = slog.LevelWarn // misspelt, or something that is written in the belief that it is enforced
	}
	d.log.Log(context.Background(), level, "objects of this kind are ignored", "kind", kind, "first", fmt.Sprintf("%s:%d", document.File, document.Line))
}

// knownGroup tells whether kinds of the API group are read.
func (d *decoder) knownGroup(group string) bool {
	for of := range d.kinds {
		if of.group == group {
			return true
		}
	}
	return false
}

// enrolment is a file of the status folder.
func enrolment(document folder.Document) (model.Object, bool, error) {
	var o status.File
	if err := document.Decode(&o); err != nil {
		return nil, false, err
	}
	if err := o.Check(); err != nil {
		return nil, false, document.At("", err)
	}
	if want := o.Node + ".yaml"; filepath.Base(document.File) != want {
		return nil, false, document.At("node", fmt.Errorf("node %q must be in a file named %s", o.Node, want))
	}
	pods := make(map[model.Name]string, len(o.Pods))
	for key, pod := range o.Pods {
		if pod.State == status.Enabled {
			namespace, name, _ := strings.Cut(key, "/")
			pods[model.Name{Namespace: namespace, Name: name}] = pod.UID
		}
	}
	return &model.Enrolment{Node: o.Node, Pods: pods}, true, nil
}
