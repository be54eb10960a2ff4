package status

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	cases := map[string]struct {
		file File
		text string
	}{
		"no pods": {File{Node: "node1"}, "node: \"node1\"\npods: {}\n"},
		"pods": {
			File{Node: "node1", Pods: map[string]Pod{"demo/b": {"2", Pending}, "demo/a": {"demo/a", Enabled}}},
			"node: \"node1\"\npods:\n  \"demo/a\": {uid: \"demo/a\", state: enabled}\n  \"demo/b\": {uid: \"2\", state: pending}\n",
		},
		"strange names": {
			File{Node: "a\"b", Pods: map[string]Pod{"true/\u2028: #\x7f\t": {"~", Enabled}}},
			"node: \"a\\\"b\"\npods:\n  \"true/\\u2028: #\\x7f\\t\": {uid: \"~\", state: enabled}\n",
		},
		"the longest names": {
			File{Node: "n", Pods: map[string]Pod{"demo/" + strings.Repeat("a", maxText-5): {strings.Repeat("u", maxText), Enabled}}},
			"node: \"n\"\npods:\n  \"demo/" + strings.Repeat("a", maxText-5) + "\": {uid: \"" + strings.Repeat("u", maxText) + "\", state: enabled}\n",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.text, string(Encode(c.file))); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
			got, err := Decode([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Pods) == 0 {
				got.Pods = nil
			}
			if diff := cmp.Diff(c.file, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAStatusFileThatIsWrongIsRefused(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"nothing":            {"", "EOF"},
		"no node":            {"pods: {}", "node: is missing"},
		"unknown field":      {"{node: n, pods: {}, more: 1}", "field more not found"},
		"unknown pod field":  {"{node: n, pods: {a/b: {uid: u, state: enabled, x: 1}}}", "field x not found"},
		"pod without a uid":  {"{node: n, pods: {a/b: {state: enabled}}}", `pod "a/b": uid: is missing`},
		"pod without state":  {"{node: n, pods: {a/b: {uid: u}}}", `pod "a/b": state "": want enabled or pending`},
		"unknown state":      {"{node: n, pods: {a/b: {uid: u, state: on}}}", "want enabled or pending"},
		"a bare state":       {"{node: n, pods: {a/b: enabled}}", "cannot unmarshal"},
		"name only":          {"{node: n, pods: {b: {uid: u, state: enabled}}}", "want namespace/name"},
		"no namespace":       {"{node: n, pods: {/b: {uid: u, state: enabled}}}", "want namespace/name"},
		"pod twice":          {"{node: n, pods: {a/b: {uid: u, state: enabled}, a/b: {uid: v, state: enabled}}}", "already defined"},
		"two documents":      {"{node: n, pods: {}}\n---\n{node: m, pods: {}}", "more than one document"},
		"half a document":    {"node: n\npods:\n  \"a/b\": {uid: ", "yaml"},
		"a node of bytes":    {"{node: !!binary /w==, pods: {}}", "isn't UTF-8"},
		"a very long name":   {"{node: n, pods: {a/" + strings.Repeat("b", maxText) + ": {uid: u, state: enabled}}}", "more than 512"},
		"more than a status": {"{node: n, pods: {}}" + strings.Repeat(" ", maxFile), "more than 1048576"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if f, err := Decode([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("decoded %v, %v, want an error with %q", f, err, c.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Decode(data)
		if err != nil {
			return
		}
		text := Encode(file)
		again, err := Decode(text)
		if err != nil {
			t.Fatalf("what was encoded can't be decoded: %v\n%s", err, text)
		}
		if !bytes.Equal(Encode(again), text) {
			t.Errorf("encoded %q, then %q", text, Encode(again))
		}
	})
}
