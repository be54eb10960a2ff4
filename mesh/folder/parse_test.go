package folder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDocumentsOfAFile(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"one":               {"apiVersion: v1\nkind: A\nmetadata: {name: n, namespace: s}", "1 v1 A s/n"},
		"several":           {"# first\n---\napiVersion: v1\nkind: A\nmetadata: {name: n}\n---\n---\n# nothing\n---\n{apiVersion: v1, kind: B, metadata: {name: m}}\n", "3 v1 A /n; 10 v1 B /m"},
		"only comments":     {"# all of it is switched off\n", ""},
		"a list":            {"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: A, metadata: {name: n}}\n- apiVersion: v1\n  kind: B\n  metadata: {name: m}\n", "4 v1 A /n; 5 v1 B /m"},
		"a list in a list":  {"{apiVersion: v1, kind: AList, items: [{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: A, metadata: {name: n}}]}]}", "1 v1 A /n"},
		"an empty list":     {"{apiVersion: v1, kind: List, items: []}", ""},
		"an alias":          {"{apiVersion: v1, kind: List, items: [&a {apiVersion: v1, kind: A, metadata: {name: &n n}}, {apiVersion: v1, kind: B, metadata: {name: *n}}]}", "1 v1 A /n; 1 v1 B /n"},
		"JSON":              {`{"apiVersion": "v1", "kind": "A", "metadata": {"name": "n"}}`, "1 v1 A /n"},
		"CRLF":              {"apiVersion: v1\r\nkind: A\r\nmetadata: {name: n}\r\n", "1 v1 A /n"},
		"a byte order mark": {"\ufeffapiVersion: v1\nkind: A\nmetadata: {name: n}\n", "1 v1 A /n"},
	} {
		t.Run(name, func(t *testing.T) {
			documents, err := parse("f", []byte(c.text), false)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range documents {
				got = append(got, fmt.Sprintf("%d %s %s %s/%s", d.Line, d.APIVersion, d.Kind, d.Namespace, d.Name))
			}
			if list := strings.Join(got, "; "); list != c.want {
				t.Errorf("want %s\nhave %s", c.want, list)
			}
		})
	}
}

func TestBrokenFilesSayWhere(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 10), ", "))
	}
	for name, c := range map[string]struct{ text, want string }{
		"no kind":            {"# x\napiVersion: v1\nmetadata: {name: n}", "f:2: kind: missing"},
		"no version":         {"kind: A\nmetadata: {name: n}", "f:1: apiVersion: missing"},
		"no name":            {"apiVersion: v1\nkind: A", "f:1: metadata.name: missing"},
		"a number as name":   {"apiVersion: v1\nkind: A\nmetadata:\n  name: 5", "f:4: metadata.name: want a string"},
		"a list as kind":     {"apiVersion: v1\nkind: [A]", "f:2: kind: want a string"},
		"a list":             {"- a", "f:1: want an object"},
		"a word":             {"---\n---\nhello", "f:3: want an object"},
		"items of a word":    {"{apiVersion: v1,\nkind: List,\nitems: x}", "f:3: items: want a list"},
		"a bad item":         {"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: A}", "f:4: metadata.name: missing"},
		"tabs":               {"a:\n\tb: c", "f:2: found character that cannot start any token"},
		"second document":    {"apiVersion: v1\nkind: A\nmetadata: {name: n}\n---\na: b: c", "f:5: mapping values are not allowed in this context"},
		"nested too deep":    {deep, "f:1: nested deeper than 100"},
		"an alias bomb":      {bomb, "f:1: more than 500000 values: split the file, or use fewer aliases"},
		"an alias of itself": {"a: &a {b: *a}", "f:1: nested deeper than 100"},
		"an unknown alias":   {"a: *b", "f: unknown anchor 'b' referenced"},
		"a merge":            {"a: &a {x: y}\nb:\n  <<: *a", "f:3: merge keys (<<) are not supported: write the fields out"},
		"a key of a list":    {"? [a]\n: b", "f:1: a key must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse("f", []byte(c.text), false)
			var located *Error
			if !errors.As(err, &located) || err.Error() != c.want {
				t.Errorf("want %s\nhave %v", c.want, err)
			}
		})
	}
}

// inner is embedded, as TypeMeta is in Kubernetes' types.
type inner struct {
	Kind string `json:"kind,omitempty"`
}

// upper has a reader of its own, as times and quantities do.
type upper string

func (u *upper) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("nothing to raise")
	}
	*u = upper(strings.ToUpper(string(text)))
	return nil
}

// third complains about the third line of what it reads.
type third struct{}

func (*third) UnmarshalJSON([]byte) error { return lineThree{} }

type lineThree struct{}

func (lineThree) Error() string { return "not the third" }
func (lineThree) JSONLine() int { return 3 }

type everything struct {
	inner  `json:",inline"`
	Text   string            `json:"text"`
	Number int32             `json:"number"`
	Port   uint16            `json:"port"`
	Float  float64           `json:"float"`
	Bool   *bool             `json:"bool"`
	List   []inner           `json:"list"`
	Map    map[string]int    `json:"map"`
	Deep   map[string]*inner `json:"deep"`
	Bytes  []byte            `json:"bytes"`
	Own    upper             `json:"own"`
	Third  *third            `json:"third"`
	Time   time.Time         `json:"time"`
	Any    any               `json:"any"`
	Hidden string            `json:"-"`
}

func decodeText(text string) (everything, error) {
	documents, err := parse("f", []byte(text), true)
	if err != nil {
		return everything{}, err
	}
	var o everything
	return o, documents[0].Decode(&o)
}

func TestDecode(t *testing.T) {
	got, err := decodeText(`
kind: K
text: "5"
number: -0x10
port: 65535
float: 1
bool: true
list: [{kind: a}, {}]
map: {a: 1}
deep: {x: {kind: y}, z: null}
bytes: aGVsbG8=
own: loud
time: 2026-01-02T03:04:05Z
any: {a: [1, 2.5, true, null, text, 0x10, 123456789012345678901234567890]}
`)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := everything{
		inner: inner{Kind: "K"}, Text: "5", Number: -16, Port: 65535, Float: 1, Bool: &yes, List: []inner{{"a"}, {}},
		Map: map[string]int{"a": 1}, Deep: map[string]*inner{"x": {"y"}, "z": nil}, Bytes: []byte("hello"), Own: "LOUD",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Any:  map[string]any{"a": []any{1.0, 2.5, true, nil, "text", 16.0, 1.2345678901234568e29}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("want %+v\nhave %+v", want, got)
	}
}

func TestDecodeIsStrictAndSaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		"text: a\nnumbr: 1":                   "f:2: numbr: unknown field",
		"Text: a":                             `f:1: Text: unknown field, did you mean "text"?`,
		"hidden: a":                           "f:1: hidden: unknown field",
		"text: a\ntext: b":                    "f:2: text: field is there twice",
		"map: {a: 1, a: 2}":                   "f:1: map.a: key is there twice",
		"text: 5":                             "f:1: text: want string, have the number 5",
		"text:\n- a":                          "f:1: text: want string, have a list",
		"text: true":                          "f:1: text: want string, have the boolean true",
		"number: one":                         `f:1: number: want int32, have "one"`,
		"number: 1.5":                         "f:1: number: want int32, have the number 1.5",
		"number: 3000000000":                  `f:1: number: want int32: strconv.ParseInt: parsing "3000000000": value out of range`,
		"port: 65536":                         `f:1: port: want uint16: strconv.ParseUint: parsing "65536": value out of range`,
		"port: -1":                            `f:1: port: want uint16: strconv.ParseUint: parsing "-1": invalid syntax`,
		"bool: \"true\"":                      `f:1: bool: want bool, have "true"`,
		"list:\n- kind: a\n- kind: b\n  x: y": "f:4: list[1].x: unknown field",
		"list: {a: b}":                        "f:1: list: want a list, have an object",
		"list: [a]":                           `f:1: list[0]: want an object, have "a"`,
		"map: [a]":                            "f:1: map: want an object, have a list",
		"deep:\n  a:\n    knid: b":            "f:3: deep.a.knid: unknown field",
		"bytes: '*'":                          "f:1: bytes: want a string in base64: illegal base64 data at input byte 0",
		"bytes: [1]":                          "f:1: bytes: want a string in base64, have a list",
		"text: a\nown: ''":                    "f:2: own: nothing to raise",
		"text: a\nthird:\n  a: b\n  c: d\n  e: f": "f:5: third: not the third",
	} {
		if _, err := decodeText(text); err == nil || err.Error() != want {
			t.Errorf("%q\nwant %s\nhave %v", text, want, err)
		}
	}
}

func TestAtFindsTheNearestLine(t *testing.T) {
	documents, err := parse("f", []byte("spec:\n  rules:\n  - from: x\n  - to:\n    - a\n    - b\n"), true)
	if err != nil {
		t.Fatal(err)
	}
	for field, line := range map[string]int{
		"": 1, "spec": 1, "spec.rules": 2, "spec.rules[0].from": 3, "spec.rules[1].to[1]": 6, "spec.rules[1].to[7]": 4,
		"spec.rules[1].missing.more": 4, "status": 1, "spec.rules[x]": 2, "spec[0]": 1,
	} {
		var located *Error
		if err := documents[0].At(field, errors.New("x")); !errors.As(err, &located) || located.Line != line {
			t.Errorf("%s: want line %d, have %v", field, line, err)
		}
	}
}

// FuzzParse: whatever a file holds, it is read or refused with a line of the file, and never more than was written.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, seed := range seeds {
		text, err := os.ReadFile(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text []byte, plain bool) {
		lines := 2
		for _, r := range string(text) {
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) { // YAML's line breaks
				lines++
			}
		}
		check := func(err error) {
			var located *Error
			if err != nil && (!errors.As(err, &located) || located.File != "f" || located.Line < 0 || located.Line > lines) {
				t.Errorf("error without a place: %v", err)
			}
		}
		documents, err := parse("f", text, plain)
		check(err)
		for _, d := range documents {
			if !plain && (d.Kind == "" || d.APIVersion == "" || d.Name == "") {
				t.Errorf("half a document: %+v", d)
			}
			var typed everything
			check(d.Decode(&typed))
			var untyped any
			check(d.Decode(&untyped))
			check(d.At("spec.rules[0].from", errors.New("x")))
		}
	})
}
