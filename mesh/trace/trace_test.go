package trace_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/mesh/trace"
)

const header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

func TestHeadersThatAreTaken(t *testing.T) {
	for _, text := range []string{header, header[:53] + "01", header[:53] + "ff"} {
		c, ok := trace.Parse(text)
		if !ok || c.String() != text || c.Sampled() != (text != header) || !c.WithSampled().Sampled() {
			t.Errorf("Parse(%q) = %+v, %v", text, c, ok)
		}
	}
}

func TestHeadersThatAreNone(t *testing.T) {
	for _, text := range []string{
		"", header[1:], header + "0", "01" + header[2:], strings.ToUpper(header), strings.Replace(header, "-b", "b-", 1),
		header[:3] + strings.Repeat("0", 32) + header[35:], header[:36] + strings.Repeat("0", 16) + header[52:], strings.Replace(header, "f", "g", 1),
	} {
		if c, ok := trace.Parse(text); ok {
			t.Errorf("Parse(%q) = %+v, want none", text, c)
		}
	}
}

func TestNewTracesDiffer(t *testing.T) {
	a, b := trace.New(), trace.New()
	if again, ok := trace.Parse(a.String()); !ok || again != a || a == b || a.Sampled() {
		t.Errorf("New() = %v, then %v", a, b)
	}
	if none := (trace.Context{}).String(); none != "" {
		t.Errorf("the zero Context is %q", none)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(header)
	f.Add("00-00000000000000000000000000000000-0000000000000000-00")
	f.Add("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz")
	f.Fuzz(func(t *testing.T, text string) {
		if c, ok := trace.Parse(text); ok && c.String() != text {
			t.Errorf("%q: %q", text, c)
		}
	})
}
