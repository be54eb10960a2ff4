package telemetry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxValue is the longest text of one value in a line, in bytes. What is longer is cut, and says so.
const maxValue = 4096

// appendAttr writes one attribute, with a separator before it.
func (h *handler) appendAttr(line []byte, group string, attr slog.Attr) []byte {
	value := attr.Value.Resolve()
	if attr.Equal(slog.Attr{}) {
		return line
	}
	if value.Kind() == slog.KindGroup {
		if attr.Key != "" {
			group += attr.Key + "."
		}
		for _, member := range value.Group() {
			line = h.appendAttr(line, group, member)
		}
		return line
	}
	if h.json {
		line = append(line, ',')
		line = appendQuoted(line, group+attr.Key)
		line = append(line, ':')
		return appendJSON(line, value)
	}
	line = append(line, ' ')
	line = appendEscaped(line, group)
	line = appendEscaped(line, attr.Key)
	line = append(line, '=')
	return appendPlain(line, value)
}

// appendPlain writes numbers, addresses and times bare, all other text in quotes.
func appendPlain(line []byte, value slog.Value) []byte {
	switch value.Kind() {
	case slog.KindInt64, slog.KindUint64, slog.KindBool, slog.KindFloat64:
		return append(line, value.String()...)
	case slog.KindDuration:
		return append(line, value.Duration().String()...)
	case slog.KindTime:
		return value.Time().UTC().AppendFormat(line, time.RFC3339Nano)
	case slog.KindString:
		return appendQuoted(line, value.String())
	}
	switch v := value.Any().(type) {
	case netip.AddrPort:
		return append(line, v.String()...)
	case netip.Addr:
		return append(line, v.String()...)
	case netip.Prefix:
		return append(line, v.String()...)
	default:
		return appendQuoted(line, fmt.Sprint(v))
	}
}

func appendJSON(line []byte, value slog.Value) []byte {
	switch value.Kind() {
	case slog.KindInt64, slog.KindUint64, slog.KindBool:
		return append(line, value.String()...)
	case slog.KindFloat64:
		// Infinity and NaN are no JSON numbers.
		if text, err := json.Marshal(value.Float64()); err == nil {
			return append(line, text...)
		}
		return appendQuoted(line, value.String())
	case slog.KindTime:
		return appendQuoted(line, value.Time().UTC().Format(time.RFC3339Nano))
	case slog.KindString, slog.KindDuration:
		return appendQuoted(line, value.String())
	}
	switch v := value.Any().(type) {
	case error, fmt.Stringer:
		return appendQuoted(line, fmt.Sprint(v))
	default:
		if text, err := json.Marshal(v); err == nil && len(text) <= maxValue {
			return append(line, text...)
		}
		return appendQuoted(line, fmt.Sprint(v))
	}
}

// plainAddress tells whether the text can stand without quotes and be nothing but an address.
func plainAddress(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == ':', c == '-', c == '_', c == '[', c == ']', c == '%':
		default:
			return false
		}
	}
	return text != "" && len(text) <= maxValue
}

// appendQuoted writes text as a JSON string (RFC 8259 section 7).
func appendQuoted(line []byte, text string) []byte {
	line = append(line, '"')
	line = appendEscapedQuotes(line, text, true)
	return append(line, '"')
}

// appendEscaped writes text so that it can't end a line or begin a column.
func appendEscaped(line []byte, text string) []byte { return appendEscapedQuotes(line, text, false) }

func appendEscapedQuotes(line []byte, text string, quotes bool) []byte {
	if harmless(text) {
		return append(line, text...)
	}
	cut := len(text) > maxValue
	if cut {
		text = text[:maxValue]
	}
	for _, r := range text {
		switch {
		case quotes && (r == '"' || r == '\\'):
			line = append(line, '\\', byte(r))
		case r == '\n':
			line = append(line, `\n`...)
		case r == '\t':
			line = append(line, `\t`...)
		case r < ' ', r == 0x7f, r == 0x2028, r == 0x2029:
			line = append(line, `\u`...)
			line = append(line, strconv.FormatInt(0x10000+int64(r), 16)[1:]...)
		default:
			line = utf8.AppendRune(line, r)
		}
	}
	if cut {
		line = append(line, "…"...)
	}
	return line
}

// harmless tells that the text is plain ASCII of moderate length that needs no escape anywhere, as nearly all are.
func harmless(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return len(text) <= maxValue
}
