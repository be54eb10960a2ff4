package folder

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkParse reads a file of a thousand objects, of about 100 bytes each.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "---\nkind: K\ntext: name%d\nnumber: %d\nlist: [{kind: a}, {kind: b}]\nmap: {a: 1, b: 2}\nown: value\nbool: true\n", i, i)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		documents, err := parse("f", []byte(text.String()), true)
		if err != nil {
			b.Fatal(err)
		}
		for _, d := range documents {
			var o everything
			if err := d.Decode(&o); err != nil {
				b.Fatal(err)
			}
		}
	}
}
