package exchange

import (
	"slices"
	"strings"
)

// Joined returns the value of a field and whether it is there. Several lines are one value with commas between them (RFC 9110 section 5.2),
// which costs an allocation.
func Joined(fields []Field, name string) (string, bool) {
	first := slices.IndexFunc(fields, func(f Field) bool { return f.Name == name })
	if first < 0 {
		return "", false
	}
	value := fields[first].Value
	for _, f := range fields[first+1:] {
		if f.Name == name {
			return joinFrom(fields[first:], name), true
		}
	}
	return value, true
}

func joinFrom(fields []Field, name string) string {
	var values []string
	for _, f := range fields {
		if f.Name == name {
			values = append(values, f.Value)
		}
	}
	return strings.Join(values, ",")
}

// Named returns a request's header as it was on the wire, several lines as one value. Some are no fields here.
func Named(req *Request, name string) (value string, ok bool) {
	switch name {
	case "host", ":authority":
		return req.Authority, req.Authority != ""
	case ":method":
		return req.Method, true
	case ":path":
		return req.Path, req.Path != ""
	case ":scheme":
		return req.Scheme, true
	case "upgrade":
		return req.Upgrade, req.Upgrade != ""
	}
	return Joined(req.Fields, name)
}

// InFields tells whether a header is among the fields of a request if it is there; known, whether Named has it at all.
func InFields(name string) (in, known bool) {
	switch name {
	case "host", ":authority", ":method", ":path", ":scheme", "upgrade":
		return false, true
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "content-length", "":
		return false, false
	}
	return true, true
}

// Set returns the fields with one line of a name, which has the value.
func Set(fields []Field, name, value string) []Field {
	return append(Remove(fields, name), Field{name, value})
}

// Remove returns the fields without those of a name.
func Remove(fields []Field, name string) []Field {
	return slices.DeleteFunc(fields, func(f Field) bool { return f.Name == name })
}
