package target_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/target"
)

func TestPathsHaveOneSpelling(t *testing.T) {
	for _, c := range [][2]string{
		{"/", "/"}, {"*", "*"}, {"", ""}, {"/a/b?x=/../y", "/a/b?x=/../y"}, {"/a//b", "/a//b"}, {"/.well-known/x", "/.well-known/x"}, {"/a/...", "/a/..."},
		{"/a/../b", "/b"}, {"/a/./b", "/a/b"}, {"/a/..", "/"}, {"/a/b/..", "/a/"}, {"/a/.", "/a/"}, {"/..", "/"}, {"/../../etc", "/etc"}, {"/a/../../b", "/b"},
		{"/a//../b", "/a/b"}, {"/%61dmin", "/admin"}, {"/%2e%2E/b", "/b"}, {"/a/.%2e/b", "/b"}, {"/a%2fb", "/a%2Fb"}, {"/a%2Fb", "/a%2Fb"},
		{`/a\b`, "/a/b"}, {`/a\..\b`, "/b"}, {`\a`, "/a"}, {"/a%5cb", "/a%5Cb"}, {"/%252e%252e/a", "/%252e%252e/a"}, {"/a?%zz\\", "/a?%zz\\"}, {"/caf%c3%A9", "/caf%C3%A9"},
	} {
		if got, err := target.Normalize(c[0]); err != nil || got != c[1] {
			t.Errorf("Normalize(%q) = %q, %v; want %q", c[0], got, err, c[1])
		}
	}
}

func TestTargetsThatAreNone(t *testing.T) {
	for _, text := range []string{"a", "http://a/", "/a b", "/a\x00", "/a\r\nb", "/a#b", "/a?b#c", "/a?b c", "/%", "/%2", "/%zz", "/a%00b", "?x", "**", "/\x7f"} {
		if got, err := target.Normalize(text); err == nil {
			t.Errorf("Normalize(%q) = %q, want an error", text, got)
		}
	}
}

func TestServersMayReadOtherwise(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b": "", "/a%20b": "", "/%252F": "", "/a;b/c": "", "/a..;b": "", "/...;b": "", "/..a;b": "",
		"/a//b": "/a/b", "//a": "/a", "/a///": "/a/", "/a%2Fb": "/a/b", "/a%5Cb": "/a/b", "/a%2F%2F": "/a/ /a//",
		"/x/..%2Fadmin": "/admin", "/a%2F..%2F..%2Fb": "/b", "/x//..%2Fadmin": "/admin /x/admin", "/a//b%2Fc": "/a/b/c /a//b/c",
		"/x/..;/admin": "/admin", "/x/..;a=b/admin": "/admin", "/x/.;/admin": "/x/admin", "/x/..;": "/", "/x/..;%2Fadmin": "/admin", "/x%2F..;/admin": "/admin", "/x//..;/admin": "/admin /x/admin",
	} {
		if got := strings.Join(target.Readings(path), " "); got != want {
			t.Errorf("%q is read as %q, want %q", path, got, want)
		}
	}
}

func TestNormalTargetsCostNoAllocation(t *testing.T) {
	allocs := testing.AllocsPerRun(100, func() {
		path, err := target.Normalize("/api/v1/items/17.json?name=x&sort=up")
		if err != nil || len(target.Readings(path)) > 0 {
			t.Error("not as it was")
		}
		if _, ok := target.Param("name=x&sort=up", "sort"); !ok {
			t.Error("no sort")
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestParametersAreDecodedAndTheFirstCounts(t *testing.T) {
	const query = "a=1&a=2&b&c=%41+x&%64=e&bad=%zz&=nameless"
	for name, want := range map[string]string{"a": "1", "b": "", "c": "A x", "d": "e", "bad": "%zz"} {
		if got, ok := target.Param(query, name); !ok || got != want {
			t.Errorf("Param(%q) = %q, %v; want %q", name, got, ok, want)
		}
	}
	if got, ok := target.Param(query, "z"); ok {
		t.Errorf("Param(z) = %q", got)
	}
	for _, c := range [][3]string{
		{"/p?a=1&b=2&a=3", "a", "/p?b=2"}, {"/p?a=1", "a", "/p"}, {"/p", "a", "/p"}, {"/p?b=%41&%61=1", "a", "/p?b=%41"},
	} {
		if got := target.WithoutParam(c[0], c[1]); got != c[2] {
			t.Errorf("WithoutParam(%q, %q) = %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func TestHostsAndPorts(t *testing.T) {
	for _, c := range [][3]string{
		{"a.example", "a.example", ""}, {"a.example:80", "a.example", "80"}, {"a.example.:80", "a.example", "80"}, {"[::1]", "[::1]", ""}, {"[::1]:80", "[::1]", "80"}, {"", "", ""},
	} {
		if host, port := target.SplitHost(c[0]); host != c[1] || port != c[2] {
			t.Errorf("SplitHost(%q) = %q, %q", c[0], host, port)
		}
	}
}

// FuzzNormalize: what is normal stays so, has nothing left that servers resolve, and however a client escapes letters it names the same.
func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"/a/../b", `/a\..%2e/%2F`, "/%61%2e/.?x=/../", "/a//..//b", "*", "/..;/a", "/%c0%ae%c0%ae/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := target.Normalize(text)
		if err != nil {
			return
		}
		if twice, err := target.Normalize(once); err != nil || twice != once {
			t.Fatalf("Normalize(%q) = %q, and of that %q, %v", text, once, twice, err)
		}
		path, _ := target.Split(once)
		if path == "" || path == "*" {
			return
		}
		for _, read := range append(target.Readings(path), path) {
			if read[0] != '/' || strings.Contains(read, `\`) || strings.Contains(read+"/", "/./") || strings.Contains(read+"/", "/../") {
				t.Errorf("%q is read as %q", text, read)
			}
		}
		for i, read := range target.Readings(path) {
			if again := target.Readings(read); i == 0 && len(again) > 0 || read == path {
				t.Errorf("%q is read as %q, and that as %q", path, read, again)
			}
		}
		var escaped strings.Builder
		for i := range len(path) {
			if c := path[i]; 'a' <= c && c <= 'z' && (i < 2 || path[i-1] != '%' && path[i-2] != '%') {
				escaped.WriteString("%" + string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]))
			} else {
				escaped.WriteByte(c)
			}
		}
		if again, err := target.Normalize(escaped.String()); err != nil || again != path {
			t.Errorf("Normalize(%q) = %q, %v; want %q", escaped.String(), again, err, path)
		}
	})
}
