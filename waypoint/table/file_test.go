package table_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/table"
)

const route = `
# Whatever else is there is for others.
services: [{name: web}]
resources:
  HTTPRoute/shop/web:
    schema: 1
    targets: [{service: shop/web, ports: [80]}]
    route:
      protocol: HTTP
      rules: [{name: from-a-file, matches: [{rank: "134217728", path: {prefix: /}}]}]
`

func TestResourcesOfAFile(t *testing.T) {
	b := newBuilder(t)
	for _, c := range []struct{ file, want string }{{route, "from-a-file"}, {strings.ReplaceAll(route, "from-a-file", "changed"), "changed"}, {"# nothing\n", "none"}} {
		resources, err := table.Read([]byte(c.file))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Replace(resources, now); err != nil {
			t.Fatal(err)
		}
		if got := by(b.Table(), "shop/web", 80, ""); got != c.want {
			t.Errorf("goes by %s, want %s", got, c.want)
		}
	}
}

func TestAFileThatCannotBeObeyedIsRefusedWithItsLine(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"prefix: /", "prefixx: /", "line 6: resource HTTPRoute/shop/web: "},
		{"prefix: /", "regex: (", "missing closing"},
		{"schema: 1", "schema: 2", "schema 2"},
		{"targets: [{service: shop/web, ports: [80]}]", "targets: []", "no targets"},
		{"resources:", "resources: [", "line "},
		{"resources:\n", "resources:\n  a: 1\n", "line 5: resource a: "},
	} {
		_, err := table.Read([]byte(strings.Replace(route, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.new, err, c.want)
		}
	}
}

// FuzzRead: whatever a file holds, it is refused, or its resources can be put into force.
func FuzzRead(f *testing.F) {
	f.Add([]byte(route))
	f.Add([]byte("resources: {a: {schema: 1, targets: [{gateway: shop/waypoint}], policy: {action: DENY, rules: [{}]}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		resources, err := table.Read(data)
		if err != nil {
			return
		}
		b := newBuilder(t)
		if err := b.Replace(resources, now); err != nil {
			t.Errorf("refused only when it is put into force: %v", err)
		}
		b.Table().Lookup("shop/web", 80, "shop")
	})
}
