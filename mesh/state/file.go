package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
)

// MaxFile bounds the size of a local file, in bytes.
const MaxFile = 16 << 20

// localFile is the form of a local file. Enumerations are written in any case.
type localFile struct {
	Workloads []localWorkload `yaml:"workloads"`
	Services  []localService  `yaml:"services"`
	Policies  []localPolicy   `yaml:"policies"`
	Resources yaml.Node       `yaml:"resources"` // about requests: only waypoints read them
}

// ReadFile reads a state from a file, which takes the place of a control plane: YAML with workloads, services and
// policies, their fields in camelCase. It is at most 16 MiB long. A field that is not known, or anything else that can't
// be used, is an error which names the line.
func ReadFile(path string) (Update, error) {
	file, err := os.Open(path)
	if err != nil {
		return Update{}, fmt.Errorf("read local state: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err != nil {
		return Update{}, fmt.Errorf("read local state: %w", err)
	}
	update, err := Read(data)
	if err != nil {
		return Update{}, fmt.Errorf("local state %s: %w", path, err)
	}
	return update, nil
}

// Read is ReadFile for a text at hand.
func Read(data []byte) (Update, error) {
	if len(data) > MaxFile {
		return Update{}, fmt.Errorf("it is longer than %d bytes", MaxFile)
	}
	var file localFile
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	switch err := decoder.Decode(&file); {
	case errors.Is(err, io.EOF): // nothing but comments
	case err != nil:
		return Update{}, err
	case !errors.Is(decoder.Decode(new(yaml.Node)), io.EOF):
		return Update{}, errors.New("it has more than one YAML document")
	}
	return file.update(linesOf(data))
}

// update turns the file into resources as the control plane sends them, and checks each as if it came from there.
func (f *localFile) update(lines map[string][]int) (Update, error) {
	var u Update
	seen := map[string]bool{}
	check := func(kind string, i int, name string, one Update, err error) error {
		if _, rejected := decode(one); err == nil && len(rejected) > 0 {
			err = rejected
		}
		if err == nil && seen[name] {
			err = errors.New("it is there twice")
		}
		seen[name] = true
		if err != nil {
			return fmt.Errorf("line %d: %s %s: %w", lineAt(lines[kind], i), kind, name, err)
		}
		u.Addresses = append(u.Addresses, one.Addresses...)
		u.Policies = append(u.Policies, one.Policies...)
		return nil
	}
	for i := range f.Workloads {
		address, err := f.Workloads[i].address()
		if err := check("workloads", i, f.Workloads[i].UID, Update{Addresses: address}, err); err != nil {
			return Update{}, err
		}
	}
	for i := range f.Services {
		s := &f.Services[i]
		address, err := s.address()
		if err := check("services", i, s.Namespace+"/"+s.Hostname, Update{Addresses: address}, err); err != nil {
			return Update{}, err
		}
	}
	for i := range f.Policies {
		p := &f.Policies[i]
		policy, err := p.authorization()
		// A service of the same name is another resource.
		if err := check("policies", i, "policy "+p.Namespace+"/"+p.Name, Update{Policies: policy}, err); err != nil {
			return Update{}, err
		}
	}
	return u, nil
}

// linesOf returns where the elements of the file's lists begin, by the list's key.
func linesOf(data []byte) map[string][]int {
	lines := map[string][]int{}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil || len(document.Content) == 0 {
		return lines
	}
	fields := document.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		for _, element := range fields[i+1].Content {
			lines[fields[i].Value] = append(lines[fields[i].Value], element.Line)
		}
	}
	return lines
}

// lineAt returns the line of an element, or 0 if an alias or merge hides it.
func lineAt(lines []int, i int) int {
	if i < len(lines) {
		return lines[i]
	}
	return 0
}
