// Package target reads what a request asks for: its path, in the one spelling that routes, policies and the server are to see, its query, and
// its host.
package target

import (
	"bytes"
	"errors"
	"net/url"
	"slices"
	"strings"
)

var (
	errSpelling = errors.New("the path must begin with a slash and have no blank, control character or fragment")
	errEscape   = errors.New("the path has a % that isn't followed by the two hexadecimal digits of a character other than NUL")
)

// Normalize returns a request target as it is to be looked at and sent on. It does what Istio does by default (BASE), so a client can't
// name a path that a policy knows in a spelling that it doesn't: the elements . and .. are resolved (RFC 3986 section 6.2.2.3), escaped
// letters, digits, -, ., _ and ~ are not escaped (6.2.2.2), other escapes have capital digits (6.2.2.1), and a backslash is a slash. The query
// stays as it is, and so do several slashes and escaped ones, of which servers think differently: see Readings. An error means that the request
// is to be answered with status 400. Nothing is allocated for a target that is normal.
func Normalize(target string) (string, error) {
	if target == "*" || target == "" { // of OPTIONS and CONNECT
		return target, nil
	}
	path, _ := Split(target)
	if path == "" || path[0] != '/' && path[0] != '\\' {
		return "", errSpelling
	}
	normal := true
	for i := 0; i < len(target); i++ {
		switch c := target[i]; {
		case c <= ' ' || c == 0x7f || c == '#':
			return "", errSpelling
		case i >= len(path):
		case c == '\\', c == '%', c == '/' && dotted(path[i+1:]):
			normal = false
		}
	}
	if normal {
		return target, nil
	}
	spelled, err := Spell(path)
	if err != nil {
		return "", err
	}
	clean := resolve([]byte(strings.ReplaceAll(spelled, `\`, "/")))
	return string(clean) + target[len(path):], nil
}

// Split returns a target's path and its query, without the question mark.
func Split(target string) (path, query string) {
	path, query, _ = strings.Cut(target, "?")
	return path, query
}

// Spell spells escapes in the way that Normalize does. What is compared with paths is spelled so too.
func Spell(path string) (string, error) {
	if strings.IndexByte(path, '%') < 0 {
		return path, nil
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			out = append(out, path[i])
			continue
		}
		if len(path) < i+3 || !hex(path[i+1]) || !hex(path[i+2]) {
			return "", errEscape
		}
		c := digit(path[i+1])<<4 | digit(path[i+2])
		switch {
		case c == 0:
			return "", errEscape
		case unreserved(c):
			out = append(out, c)
		default:
			out = append(out, '%', upper(path[i+1]), upper(path[i+2]))
		}
		i += 2
	}
	return string(out), nil
}

// Readings returns how else than as it is servers may read a normalized path. There is none of most paths; then nothing is allocated.
//
//   - Escaped slashes are slashes, and several slashes are one.
//   - Escaped slashes are slashes, between which an element may be empty.
//
// In both, what is behind a semicolon is no part of an element that is a dot or two, as servers of Java have it.
func Readings(path string) (others []string) {
	several, escaped := strings.Contains(path, "//"), strings.Contains(path, "%2F") || strings.Contains(path, "%5C")
	if !several && !escaped && !strings.Contains(path, "/.;") && !strings.Contains(path, "/..;") {
		return nil
	}
	open := plainDots(strings.ReplaceAll(strings.ReplaceAll(path, "%2F", "/"), "%5C", "/"))
	for _, read := range [...]string{string(resolve(merge(open))), string(resolve([]byte(open)))} {
		if read != path && !slices.Contains(others, read) {
			others = append(others, read)
		}
	}
	return others
}

// Decode returns a normalized path, or what is compared with it, as most servers hand it to an application: with all escapes replaced but those of
// slashes. Where there are none, nothing is allocated.
func Decode(path string) string {
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && len(path) >= i+3 && hex(path[i+1]) && hex(path[i+2]) {
			if c := digit(path[i+1])<<4 | digit(path[i+2]); c != '/' && c != '\\' {
				out = append(out, c)
				i += 2
				continue
			}
		}
		out = append(out, path[i])
	}
	return string(out)
}

// plainDots takes what is behind a semicolon off elements that are a dot or two.
func plainDots(path string) string {
	if !strings.Contains(path, "/.;") && !strings.Contains(path, "/..;") {
		return path
	}
	elements := strings.Split(path, "/")
	for i, element := range elements {
		if name, _, _ := strings.Cut(element, ";"); name == "." || name == ".." {
			elements[i] = name
		}
	}
	return strings.Join(elements, "/")
}

// merge makes one slash of several.
func merge(path string) []byte {
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '/' || len(out) == 0 || out[len(out)-1] != '/' {
			out = append(out, path[i])
		}
	}
	return out
}

// dotted tells whether the first element of a path is a dot or two.
func dotted(path string) bool {
	path = strings.TrimPrefix(path, ".")
	path = strings.TrimPrefix(path, ".")
	return path == "" || path[0] == '/' || path[0] == '\\'
}

// resolve does away with the elements . and .., in place (RFC 3986 section 5.2.4). The path begins with a slash.
func resolve(path []byte) []byte {
	out := path[:0]
	for len(path) > 0 {
		end := len(path)
		if next := bytes.IndexByte(path[1:], '/'); next >= 0 {
			end = 1 + next
		}
		element := path[:end]
		path = path[end:]
		switch string(element) {
		case "/..":
			out = out[:max(0, bytes.LastIndexByte(out, '/'))]
			fallthrough
		case "/.":
			if len(path) == 0 {
				out = append(out, '/')
			}
		default:
			out = append(out, element...)
		}
	}
	return out
}

func hex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func digit(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return upper(c) - 'A' + 10
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}

// unreserved are the characters that mean the same escaped (RFC 3986 section 2.3).
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// NextParam takes the first parameter off a query. Name and value are decoded as forms are; where that can't be done they stay as they are.
func NextParam(query string) (name, value, rest string) {
	pair, rest, _ := strings.Cut(query, "&")
	name, value, _ = strings.Cut(pair, "=")
	return decode(name), decode(value), rest
}

// Param returns the first value of a parameter, and whether there is one.
func Param(query, name string) (string, bool) {
	for query != "" {
		var key, value string
		if key, value, query = NextParam(query); key == name {
			return value, true
		}
	}
	return "", false
}

// WithoutParam returns a target without the parameters of a name.
func WithoutParam(target, name string) string {
	path, query := Split(target)
	var kept []string
	for query != "" {
		pair, rest, _ := strings.Cut(query, "&")
		if key, _, _ := NextParam(pair); key != name {
			kept = append(kept, pair)
		}
		query = rest
	}
	if len(kept) == 0 {
		return path
	}
	return path + "?" + strings.Join(kept, "&")
}

func decode(text string) string {
	if strings.IndexByte(text, '%') < 0 && strings.IndexByte(text, '+') < 0 {
		return text
	}
	if decoded, err := url.QueryUnescape(text); err == nil {
		return decoded
	}
	return text
}

// SplitHost returns an authority's host, without the dot that names end with at the root, and its port, "" if it has none.
func SplitHost(authority string) (host, port string) {
	host = authority
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		host, port = authority[:i], authority[i+1:]
	}
	return strings.TrimSuffix(host, "."), port
}
