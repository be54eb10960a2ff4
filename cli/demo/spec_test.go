package demo

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func twoNodes() Spec {
	return Spec{
		Name: "t", Dir: "/run/t", Nodes: []string{"node1", "node2"},
		Pods: []Pod{
			{Name: "web", Namespace: "shop", Account: "web", Node: "node1", Labels: map[string]string{"app": "web", "tier": "front"}},
			{Name: "db-1", Namespace: "shop", Account: "db", Node: "node1", Labels: map[string]string{"app": "db"}},
			{Name: "db-2", Namespace: "shop", Account: "db", Node: "node2", Labels: map[string]string{"app": "db"}},
			{Name: "bare", Namespace: "other", Account: "default", Node: "node2"},
		},
		Services: []Service{
			{Name: "web", Namespace: "shop", Selector: map[string]string{"app": "web"}, Ports: map[uint16]uint16{80: 8080}},
			{Name: "db", Namespace: "shop", Selector: map[string]string{"app": "db"}, Ports: map[uint16]uint16{5432: 5432, 80: 8080}},
			{Name: "nobody", Namespace: "other", Selector: map[string]string{"app": "db"}, Ports: map[uint16]uint16{80: 80}},
		},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (rewrite with -update):\n%s", file, got)
	}
}

func TestServiceMap(t *testing.T) { golden(t, "services.txt", describe(targets(twoNodes()))) }

func TestManifests(t *testing.T) {
	spec := twoNodes()
	spec.Dir = t.TempDir()
	c := &Cluster{spec: spec, labels: map[string]map[string]string{}}
	for _, dir := range []string{"mesh", "hosts", "tokens"} {
		if err := os.Mkdir(c.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.writeFolder(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.LabelNamespace("shop", Label, Ambient); err != nil {
		t.Fatal(err)
	}
	if err := c.LabelPod("web", Label, "none"); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, pattern := range []string{"mesh/*", "hosts/*"} {
		files, _ := filepath.Glob(c.path(pattern))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString("# " + strings.TrimPrefix(file, spec.Dir+"/") + "\n" + string(text))
		}
	}
	golden(t, "folder.txt", all.String())
	if err := c.LabelNamespace("nowhere", Label, Ambient); err == nil {
		t.Error("a namespace that doesn't exist got a label")
	}
	if err := c.LabelNamespace("shop", Label, ""); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(c.path("mesh/namespace-shop.yaml")); err != nil || strings.Contains(string(text), Label) {
		t.Errorf("the label is still there: %v\n%s", err, text)
	}
	for file, mode := range map[string]os.FileMode{"token-key.pem": 0o600, "tokens/node1": 0o600, "token-key.pub": 0o644} {
		if info, err := os.Stat(c.path(file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %o", file, info, err, mode)
		}
	}
}

func TestSpecsThatCantBeBuilt(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Spec)
		want   string
	}{
		{"good", func(*Spec) {}, ""},
		{"no name", func(s *Spec) { s.Name = "" }, "cluster name"},
		{"a name with a path", func(s *Spec) { s.Name = "../x" }, "cluster name"},
		{"no folder", func(s *Spec) { s.Dir = "" }, "want an absolute path"},
		{"a folder relative to somewhere", func(s *Spec) { s.Dir = "demo" }, "want an absolute path"},
		{"a folder too deep for sockets", func(s *Spec) { s.Dir = "/" + strings.Repeat("x", maxDir) }, "longer than a socket can"},
		{"no nodes", func(s *Spec) { s.Nodes = nil }, "want 1–9 nodes"},
		{"two nodes of one name", func(s *Spec) { s.Nodes[1] = "node1" }, "two nodes are called node1"},
		{"two pods of one name", func(s *Spec) { s.Pods[1].Name = "web" }, "pod web: the name is taken"},
		{"a pod named like a node", func(s *Spec) { s.Pods[1].Name = "node2" }, "pod node2: the name is taken"},
		{"a pod on no node", func(s *Spec) { s.Pods[0].Node = "moon" }, `pod web is on node "moon"`},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			spec := twoNodes()
			tc.change(&spec)
			err := spec.check()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
