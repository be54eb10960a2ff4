package h1

import (
	"bytes"
	"slices"
	"strings"
	"unsafe"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// framing is what fields say of the connection and of where the message ends. They aren't among the fields that are handed on.
type framing struct {
	length    int64 // -1 without content-length
	chunked   bool
	close     bool // options of connection
	keepAlive bool
	upgrading bool
	te        bool
	options   []string // of connection, when there are others
	upgrade   string
	hosts     int
	host      string
	expect    bool // 100-continue
}

// headEnd returns the length of the head that p begins with, 0 if it hasn't all come. The first seen bytes were looked at before.
func headEnd(p []byte, seen int) int {
	from := max(0, seen-3)
	if i := bytes.Index(p[from:], []byte("\r\n\r\n")); i >= 0 {
		return from + i + 4
	}
	return 0
}

// bareLine tells whether a line in p ends in LF alone, as in the beginning of a head that can't become one. The first seen bytes were looked
// at before.
func bareLine(p []byte, seen int) bool {
	for i := seen; ; i++ {
		next := bytes.IndexByte(p[i:], '\n')
		if next < 0 {
			return false
		}
		if i += next; i == 0 || p[i-1] != '\r' {
			return true
		}
	}
}

// cutLine cuts the first line off p.
func cutLine(p []byte) (line, rest []byte, err error) {
	i := bytes.IndexByte(p, '\n')
	if i < 1 || p[i-1] != '\r' {
		return nil, nil, malformed("a line doesn't end in CRLF")
	}
	return p[:i-1], p[i+1:], nil
}

// text is p as a string without a copy: nobody changes it any more.
func text(p []byte) string { return unsafe.String(unsafe.SliceData(p), len(p)) }

// parseFields appends the fields in p, which is nothing but lines. It changes names to lower case in place.
func parseFields(p []byte, fields []exchange.Field, f *framing) ([]exchange.Field, error) {
	f.length = -1
	for count := 0; len(p) > 0; count++ {
		line, rest, err := cutLine(p)
		if err != nil {
			return nil, err
		}
		p = rest
		if count == maxFields {
			return nil, &Malformed{431, "too many fields"}
		}
		n := exchange.LowerToken(line)
		switch {
		case n == len(line):
			return nil, malformed("a field without a colon")
		case n == 0 && (line[0] == ' ' || line[0] == '\t'): // RFC 9112 section 5.2
			return nil, malformed("a field that is folded over several lines")
		case n == 0 || line[n] != ':':
			return nil, malformed("a field's name is none")
		}
		field := exchange.Field{Name: text(line[:n]), Value: text(bytes.Trim(line[n+1:], " \t"))}
		if !exchange.ValidValue(field.Value) {
			return nil, malformed("a field's value has control characters")
		}
		if own, err := f.take(field); err != nil {
			return nil, err
		} else if !own {
			fields = append(fields, field)
		}
	}
	return fields, nil
}

// take looks whether a field says something of the connection or of framing only. Those that aren't handed on are its own.
func (f *framing) take(field exchange.Field) (own bool, err error) {
	switch field.Name {
	case "content-length":
		if f.length >= 0 {
			return true, malformed("several content-lengths")
		}
		var ok bool
		if f.length, ok = exchange.ParseLength(field.Value); !ok {
			return true, malformed("a content-length that is no number of bytes")
		}
		return true, nil
	case "transfer-encoding":
		if f.chunked {
			return true, malformed("several transfer-encodings")
		}
		if !strings.EqualFold(field.Value, "chunked") {
			return true, &Malformed{501, "a transfer-encoding other than chunked"}
		}
		f.chunked = true
		return true, nil
	case "connection":
		return true, f.connection(field.Value)
	case "host":
		f.hosts++
		f.host = field.Value
		return true, nil
	case "upgrade":
		if f.upgrade != "" {
			f.upgrade += ", "
		}
		f.upgrade += field.Value
		return true, nil
	case "te":
		f.te = f.te || hasToken(field.Value, "trailers")
		return true, nil
	case "keep-alive", "proxy-connection":
		return true, nil
	case "expect":
		f.expect = f.expect || strings.EqualFold(field.Value, "100-continue")
	}
	return false, nil
}

// connection reads the options of a connection field (RFC 9110 section 7.6.1). All fields are compared with each, so there may not be many.
func (f *framing) connection(value string) error {
	for option := range strings.SplitSeq(value, ",") {
		option = strings.Trim(option, " \t")
		switch {
		case strings.EqualFold(option, "close"):
			f.close = true
		case strings.EqualFold(option, "keep-alive"):
			f.keepAlive = true
		case strings.EqualFold(option, "upgrade"):
			f.upgrading = true
		case len(f.options) == maxOptions:
			return &Malformed{431, "too many options of the connection"}
		case option != "" && !strings.EqualFold(option, "te"):
			f.options = append(f.options, option)
		}
	}
	return nil
}

// handOn takes off the fields that connection names, and adds what is known of te.
func (f *framing) handOn(fields []exchange.Field) []exchange.Field {
	if len(f.options) > 0 {
		kept := fields[:0]
		for _, field := range fields {
			if !slices.ContainsFunc(f.options, func(option string) bool { return strings.EqualFold(option, field.Name) }) {
				kept = append(kept, field)
			}
		}
		fields = kept
	}
	if f.te {
		fields = append(fields, exchange.Field{Name: "te", Value: "trailers"})
	}
	return fields
}

// upgradeTo is what the message asks the connection to become, or says that it becomes.
func (f *framing) upgradeTo() string {
	if !f.upgrading {
		return ""
	}
	return exchange.Upgrade(f.upgrade)
}

func hasToken(list, token string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(item, " \t"), token) {
			return true
		}
	}
	return false
}
