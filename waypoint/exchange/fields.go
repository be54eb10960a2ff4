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

// Set returns the fields with one line of a name, which has the value.
func Set(fields []Field, name, value string) []Field {
	return append(Remove(fields, name), Field{name, value})
}

// Remove returns the fields without those of a name.
func Remove(fields []Field, name string) []Field {
	return slices.DeleteFunc(fields, func(f Field) bool { return f.Name == name })
}
