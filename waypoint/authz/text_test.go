package authz

import (
	"regexp"
	"strings"
	"testing"
)

func TestTemplates(t *testing.T) {
	for _, c := range []struct{ template, yes, no string }{
		{"/foo/{*}", "/foo/bar", "/foo/bar/baz /foo/ /foo /bar/foo"},
		{"/foo/{**}/", "/foo/bar/ /foo/bar/baz.txt/ /foo//", "/foo/bar /foo/"},
		{"/foo/{*}/bar/{**}", "/foo/buzz/bar/ /foo/buzz/bar/baz /foo/buzz/bar/a/b", "/foo/buzz/bar /foo/bar/"},
		{"/{**}", "/ /a /a/b/", ""},
		{"/{**}/end", "/a/end /a/b/end //end", "/end /a/end/ /a/bend"},
		{"/{*}", "/a", "/ /a/ //"},
		{"/a/{**}/{*}/z", "/a/b/c/z /a//c/z", "/a/c/z /a/b//z"},
		{"/plain", "/plain", "/plain/ /"},
	} {
		parsed, err := newTemplate(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		for want, paths := range map[bool]string{true: c.yes, false: c.no} {
			for path := range strings.FieldsSeq(paths) {
				if parsed.fits(path) != want {
					t.Errorf("%s fits %s: %v, want %v", c.template, path, !want, want)
				}
			}
		}
	}
}

// FuzzTemplate: a template that can be read fits what the regular expression does that says the same.
func FuzzTemplate(f *testing.F) {
	for _, seed := range [][2]string{{"/foo/{*}/bar/{**}", "/foo/x/bar/y/z"}, {"/{**}/end", "//end"}, {"/a{*}", "/ab"}, {"{**}", "/"}, {"/a/{**}/{*}/z", "/a/b/c/z"}, {"/{**}/{**}", "/a/b"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		parsed, err := newTemplate(text)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		expression := strings.NewReplacer(`\{\*\*\}`, `.*`, `\{\*\}`, `[^/]+`).Replace(regexp.QuoteMeta(text))
		want, err := regexp.MatchString(`(?s)^(?:`+expression+`)$`, path)
		if err == nil && parsed.fits(path) != want && strings.ToValidUTF8(text+path, "?") == text+path {
			t.Errorf("%q fits %q: %v, want %v", text, path, !want, want)
		}
	})
}
