// Package status is the enrolled states of a node's pods, as the agent publishes and the control plane reads them in a file.
package status

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// State is what is published of one pod.
type State string

const (
	// Enabled means captured: peers may dial the pod's tunnel port.
	Enabled State = "enabled"
	// Pending means that the pod should be captured and never was: peers speak plain text to it.
	Pending State = "pending"
)

// UnmarshalText refuses states that aren't known.
func (s *State) UnmarshalText(text []byte) error {
	switch state := State(text); state {
	case Enabled, Pending:
		*s = state
		return nil
	}
	return fmt.Errorf("state %.40q: want %s or %s", text, Enabled, Pending)
}

// Pod is one pod's entry. Pods of the same name follow one another, so it says which of them is meant.
type Pod struct {
	UID   string `json:"uid" yaml:"uid"`
	State State  `json:"state" yaml:"state"`
}

// File is the content of a node's file.
type File struct {
	Node string         `json:"node" yaml:"node"`
	Pods map[string]Pod `json:"pods" yaml:"pods"` // by namespace/name
}

const (
	maxFile = 1 << 20 // bytes; thousands of pods
	maxText = 512     // bytes of a node's or pod's name, or a uid; Kubernetes' longest pod key has 317
)

// Encode writes a file that passes Check. The same content gives the same bytes.
func Encode(f File) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "node: %q\npods:", f.Node)
	if len(f.Pods) == 0 {
		b.WriteString(" {}")
	}
	b.WriteString("\n")
	for _, key := range slices.Sorted(maps.Keys(f.Pods)) {
		pod := f.Pods[key]
		fmt.Fprintf(&b, "  %q: {uid: %q, state: %s}\n", key, pod.UID, pod.State)
	}
	return b.Bytes()
}

// Decode reads a file of up to 1 MiB: one YAML document, in which nothing is unknown, missing or there twice.
func Decode(data []byte) (File, error) {
	if len(data) > maxFile {
		return File{}, fmt.Errorf("status file has %d bytes, more than %d", len(data), maxFile)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	var f File
	if err := decoder.Decode(&f); err != nil {
		return File{}, fmt.Errorf("read status file: %w", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return File{}, errors.New("read status file: more than one document")
	}
	return f, f.Check()
}

// Check makes sure that a file, however it was read, says what it must.
func (f File) Check() error {
	if err := checkText(f.Node); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	for key, pod := range f.Pods {
		if err := checkPod(key, pod); err != nil {
			return fmt.Errorf("pod %.40q: %w", key, err)
		}
	}
	return nil
}

func checkPod(key string, pod Pod) error {
	if err := checkText(key); err != nil {
		return err
	}
	if namespace, name, _ := strings.Cut(key, "/"); namespace == "" || name == "" {
		return errors.New("want namespace/name")
	}
	if err := checkText(pod.UID); err != nil {
		return fmt.Errorf("uid: %w", err)
	}
	return new(State).UnmarshalText([]byte(pod.State))
}

func checkText(s string) error {
	switch {
	case s == "":
		return errors.New("is missing")
	case len(s) > maxText:
		return fmt.Errorf("has %d bytes, more than %d", len(s), maxText)
	case !utf8.ValidString(s):
		return errors.New("isn't UTF-8")
	}
	return nil
}
