package install

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// pluginType is the plugin's name in a configuration, which is that of its file.
const pluginType = "tulle-cni"

// backupSuffix is at the end of a configuration that a list of ours stands in for. Runtimes don't look at such files.
const backupSuffix = ".tulle_bak"

// oldest is the oldest version of the CNI specification with chains of plugins, as the plugin speaks it.
var oldest = [3]int{0, 3, 1}

// Settings are what the plugin must know.
type Settings struct {
	RunDir   string   // folder of the agent's socket, on the node
	Excluded []string // namespaces whose pods start without the agent
	System   string   // the agent's own namespace
}

// entry is the plugin's part of a list.
func (s Settings) entry() json.RawMessage {
	entry, err := json.Marshal(struct {
		Type     string   `json:"type"`
		RunDir   string   `json:"cni_agent_run_dir"`
		Excluded []string `json:"exclude_namespaces"`
		System   string   `json:"pod_namespace"`
	}{pluginType, s.RunDir, slices.Concat([]string{}, s.Excluded), s.System})
	if err != nil {
		panic(err) // texts always can be written
	}
	return entry
}

// Change is what has to be done to a folder of network configurations, in this order.
type Change struct {
	Write  []File
	Remove []string // names
}

// File is a file of the folder.
type File struct {
	Name string
	Data []byte
}

// Empty tells that nothing has to be done.
func (c Change) Empty() bool { return len(c.Write) == 0 && len(c.Remove) == 0 }

// errNone is that of a folder without a configuration: the node's network isn't set up yet.
var errNone = errors.New("no network configuration yet: is the cluster's network plugin installed?")

// runtimes tells that a runtime looks at a file of this name.
func runtimes(name string) bool {
	switch filepath.Ext(name) {
	case ".conf", ".conflist", ".json":
		return true
	}
	return false
}

// first is the configuration that runtimes use: the first by name.
func first(folder []File) (File, bool) {
	candidates := slices.DeleteFunc(slices.Clone(folder), func(f File) bool { return !runtimes(f.Name) })
	if len(candidates) == 0 {
		return File{}, false
	}
	return slices.MinFunc(candidates, func(a, b File) int { return cmp.Compare(a.Name, b.Name) }), true
}

// Plan returns what makes the plugin the last of the chain that runtimes use. A single configuration becomes a list, and is
// kept beside it. An error leaves the folder as it is.
func Plan(folder []File, settings Settings) (Change, error) {
	used, ok := first(folder)
	if !ok {
		return Change{}, errNone
	}
	if filepath.Ext(used.Name) == ".conflist" {
		list, err := readList(used)
		if err != nil {
			return Change{}, err
		}
		return list.chained(used, settings.entry())
	}
	list, err := wrap(used)
	if err != nil {
		return Change{}, err
	}
	change, err := list.chained(File{Name: strings.TrimSuffix(used.Name, filepath.Ext(used.Name)) + ".conflist"}, settings.entry())
	change.Write = append([]File{{Name: used.Name + backupSuffix, Data: used.Data}}, change.Write...)
	change.Remove = []string{used.Name}
	return change, err
}

// Undo returns what takes the plugin out of every configuration of the folder. Those that can't be read have nothing of
// ours, and stay as they are.
func Undo(folder []File) Change {
	var change Change
	for _, file := range folder {
		if original, ok := strings.CutSuffix(file.Name, backupSuffix); ok {
			change.Write = append(change.Write, File{Name: original, Data: file.Data})
			change.Remove = append(change.Remove, strings.TrimSuffix(original, filepath.Ext(original))+".conflist", file.Name)
		}
	}
	for _, file := range folder {
		if filepath.Ext(file.Name) != ".conflist" || slices.Contains(change.Remove, file.Name) {
			continue
		}
		list, err := readList(file)
		if err != nil || !list.has() {
			continue
		}
		list.plugins = slices.DeleteFunc(list.plugins, isOurs)
		if len(list.plugins) == 0 {
			change.Remove = append(change.Remove, file.Name)
			continue
		}
		change.Write = append(change.Write, File{Name: file.Name, Data: list.bytes()})
	}
	return change
}

// list is a chain of plugins. What it doesn't know is kept as it is.
type list struct {
	fields  map[string]json.RawMessage // but plugins
	plugins []json.RawMessage
}

func readList(file File) (list, error) {
	l := list{fields: map[string]json.RawMessage{}}
	if err := json.Unmarshal(file.Data, &l.fields); err != nil {
		return l, fmt.Errorf("network configuration %s: %w", file.Name, err)
	}
	if err := json.Unmarshal(l.fields["plugins"], &l.plugins); err != nil || len(l.plugins) == 0 {
		return l, fmt.Errorf("network configuration %s has no list of plugins", file.Name)
	}
	delete(l.fields, "plugins")
	for i, plugin := range l.plugins {
		if typeOf(plugin) == "" {
			return l, fmt.Errorf("network configuration %s: plugin %d has no type", file.Name, i+1)
		}
	}
	return l, l.check(file.Name)
}

// wrap makes a list of a single configuration.
func wrap(file File) (list, error) {
	l := list{fields: map[string]json.RawMessage{}, plugins: []json.RawMessage{file.Data}}
	var single map[string]json.RawMessage
	if err := json.Unmarshal(file.Data, &single); err != nil {
		return l, fmt.Errorf("network configuration %s: %w", file.Name, err)
	}
	if typeOf(file.Data) == "" {
		return l, fmt.Errorf("network configuration %s has no type", file.Name)
	}
	for _, name := range []string{"name", "cniVersion"} {
		if value, ok := single[name]; ok {
			l.fields[name] = value
		}
	}
	return l, l.check(file.Name)
}

// check refuses what the plugin, or the runtime, couldn't work with.
func (l list) check(name string) error {
	var network, version string
	if err := json.Unmarshal(l.fields["name"], &network); err != nil || network == "" {
		return fmt.Errorf("network configuration %s has no name", name)
	}
	if raw, ok := l.fields["cniVersion"]; ok {
		if err := json.Unmarshal(raw, &version); err != nil {
			return fmt.Errorf("network configuration %s: cniVersion: %w", name, err)
		}
	}
	if parsed, ok := parseVersion(version); !ok || slices.Compare(parsed[:], oldest[:]) < 0 {
		return fmt.Errorf("network configuration %s has cniVersion %.20q: a plugin can be added from 0.3.1 on", name, version)
	}
	return nil
}

func parseVersion(text string) (version [3]int, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != len(version) {
		return version, false
	}
	for i, part := range parts {
		number, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return version, false
		}
		version[i] = int(number)
	}
	return version, true
}

// chained makes entry the last plugin of a file, which nothing is done to if it is already.
func (l list) chained(file File, entry json.RawMessage) (Change, error) {
	ours := slices.ContainsFunc(l.plugins, isOurs)
	if ours && equal(l.plugins[len(l.plugins)-1], entry) && len(slices.DeleteFunc(slices.Clone(l.plugins), isOurs)) == len(l.plugins)-1 {
		return Change{}, nil
	}
	l.plugins = append(slices.DeleteFunc(slices.Clone(l.plugins), isOurs), entry)
	if len(l.plugins) == 1 {
		return Change{}, fmt.Errorf("network configuration %s has no other plugin that would give pods a network", file.Name)
	}
	return Change{Write: []File{{Name: file.Name, Data: l.bytes()}}}, nil
}

func (l list) has() bool { return slices.ContainsFunc(l.plugins, isOurs) }

// bytes writes the list for people: its name first, its plugins last.
func (l list) bytes() []byte {
	var b bytes.Buffer
	b.WriteString("{")
	names := make([]string, 0, len(l.fields))
	for name := range l.fields {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	for _, name := range names {
		fmt.Fprintf(&b, "%s:%s,", quoted(name), l.fields[name])
	}
	b.WriteString(`"plugins":[`)
	for i, plugin := range l.plugins {
		if i > 0 {
			b.WriteString(",")
		}
		b.Write(plugin)
	}
	b.WriteString("]}")
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, b.Bytes(), "", "  "); err != nil {
		panic(err) // every part was read as JSON
	}
	return append(pretty.Bytes(), '\n')
}

func rank(name string) int {
	if i := slices.Index([]string{"name", "cniVersion"}, name); i >= 0 {
		return i
	}
	return 2
}

func quoted(text string) []byte {
	data, err := json.Marshal(text)
	if err != nil {
		panic(err) // texts always can be written
	}
	return data
}

func isOurs(plugin json.RawMessage) bool { return typeOf(plugin) == pluginType }

// typeOf is a plugin's type, "" if it has none.
func typeOf(plugin json.RawMessage) string {
	var p struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(plugin, &p); err != nil {
		return ""
	}
	return p.Type
}

// equal compares without regard to layout.
func equal(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}
