package report

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestTheTableOfAPageIsReplaced(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	text := func(table string) string {
		return "before\n<!-- make bench: begin -->\nother\n<!-- make bench: end -->\n<!-- make bench-one: begin -->\n" + table + "<!-- make bench-one: end -->\nafter\n"
	}
	if err := os.WriteFile(page, []byte(text("old\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Store(page, "bench-one", "| new |\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(page); err != nil || string(got) != text("| new |\n") {
			t.Errorf("%v\n%s", err, got)
		}
	}
	if err := Store(page, "bench-two", "| new |\n"); err == nil {
		t.Error("a page without a place was taken")
	}
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{1234: "1234", -123.4: "-123", 12.34: "12.3", 1.234: "1.23", 0.1234: "0.123", 0: "0.000", math.Inf(1): "–"} {
		if got := Number(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
	if got := Number(math.NaN()); got != "–" {
		t.Errorf("no number is %q", got)
	}
}
