package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

func levels(t testing.TB, text string) *telemetry.Levels {
	t.Helper()
	l, err := telemetry.ParseLevels(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Everything that may come into a line, in both forms.
func TestLineForms(t *testing.T) {
	id, err := identity.New("cluster.local", "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"plain", "json"} {
		t.Run(format, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				log := telemetry.NewLogger(&out, format, levels(t, "trace"))
				log.Info("no fields")
				log.With("scope", "proxy").Warn("scope and text", "pod", "cart-1", "empty", "")
				log.Error("numbers", "int", -7, "uint", uint64(math.MaxUint64), "float", 0.25, "bool", true, "infinite", math.Inf(1))
				log.Debug("addresses", "addr", netip.MustParseAddr("fd00::1"), "port", netip.MustParseAddrPort("[fd00::1]:80"),
					"prefix", netip.MustParsePrefix("10.0.0.0/8"))
				log.Log(context.Background(), slog.LevelDebug-4, "times", "duration", 1500*time.Millisecond, "at", time.Now())
				log.Info("values with a text of their own", "identity", id, "err", errors.New(`no "route"`), "nil", nil, "list", []string{"a", "b"})
				log.With("first", 1).WithGroup("group").With("second", 2).Info("groups", "third", 3, slog.Group("inner", "fourth", 4))
				log.Info("lines\nand\tcolumns \x1b[31m", "text", "quote \" backslash \\ line\nend \x00 bad \xff separator \u2028", "k\ney", "v")
				golden(t, "lines_"+format+".golden", out.String())
			})
		})
	}
}

func TestLongTextIsCut(t *testing.T) {
	for _, format := range []string{"plain", "json"} {
		var out bytes.Buffer
		telemetry.NewLogger(&out, format, levels(t, "info")).Info(strings.Repeat("m", 5000), "text", strings.Repeat("x", 5000))
		for _, part := range []string{"m", "x"} {
			if !strings.Contains(out.String(), strings.Repeat(part, 4096)+"…") || strings.Contains(out.String(), strings.Repeat(part, 4097)) {
				t.Errorf("%s: not cut at 4096 bytes: line of %d bytes", format, out.Len())
			}
		}
	}
}

func TestLevelsOfScopesCanBeChangedWhileLogging(t *testing.T) {
	var out bytes.Buffer
	l := levels(t, "warn,access=info,xds=debug,quiet=off")
	log := telemetry.NewLogger(&out, "plain", l)
	written := func(scope string, level slog.Level) bool {
		t.Helper()
		before := out.Len()
		log.With("scope", scope).Log(context.Background(), level, "x")
		return out.Len() > before
	}
	check := func(scope string, lowest slog.Level) {
		t.Helper()
		if !written(scope, lowest) || written(scope, lowest-1) {
			t.Errorf("levels %s: scope %q is not written from %v on", l, scope, lowest)
		}
	}
	check("proxy", slog.LevelWarn)
	check("access", slog.LevelInfo)
	check("xds::client", slog.LevelDebug)
	check("xds::client::stream", slog.LevelDebug)
	check("xdsclient", slog.LevelWarn)
	if written("quiet", slog.LevelError) {
		t.Error("a scope that is off was written")
	}
	for _, step := range []struct{ set, want string }{
		{"debug", "debug,access=info,quiet=off,xds=debug"},
		{"access=error, proxy=trace", "debug,access=error,proxy=trace,quiet=off,xds=debug"},
		{"", "debug,access=error,proxy=trace,quiet=off,xds=debug"},
	} {
		if err := l.Set(step.set); err != nil || l.String() != step.want {
			t.Errorf("Set(%q): %v, now %q, want %q", step.set, err, l, step.want)
		}
	}
	check("proxy", slog.LevelDebug-4)
	check("access", slog.LevelError)
	if err := l.Set("info,access=loud"); err == nil || l.String() != "debug,access=error,proxy=trace,quiet=off,xds=debug" {
		t.Errorf("Set with an error: %v, now %q; want nothing changed", err, l)
	}
	l.Reset()
	if want := "warn,access=info,quiet=off,xds=debug"; l.String() != want {
		t.Errorf("Reset: now %q, want %q", l, want)
	}
	check("access", slog.LevelInfo)
}

func TestZeroLevelsAreInfo(t *testing.T) {
	var l telemetry.Levels
	if l.String() != "info" {
		t.Errorf("String() = %q", l.String())
	}
	if err := l.Set("access=debug"); err != nil || l.String() != "info,access=debug" {
		t.Errorf("Set: %v, now %q", err, l.String())
	}
	l.Reset()
	if l.String() != "info" {
		t.Errorf("after Reset: %q", l.String())
	}
}

func TestParseLevels(t *testing.T) {
	many := strings.Repeat("a=info,", 99) + "a=info"
	for text, want := range map[string]string{
		"":                                "info",
		"debug":                           "debug",
		"Warning":                         "warn",
		" info , access=DEBUG ,":          "info,access=debug",
		"ztunnel::proxy=trace,error":      "error,ztunnel::proxy=trace",
		"info,debug":                      "debug",
		"off,access=info":                 "off,access=info",
		many:                              "info,a=info",
		"loud":                            "",
		"access=":                         "",
		"=debug":                          "",
		"a b=debug":                       "",
		"access":                          "",
		"info[span]=debug":                "",
		"info,proxy[{x=1}]=debug":         "",
		many + ",b=info":                  "",
		strings.Repeat("s", 101) + "=off": "",
	} {
		l, err := telemetry.ParseLevels(text)
		if want == "" {
			if err == nil {
				t.Errorf("ParseLevels(%q) = %q, want an error", text, l)
			}
			continue
		}
		if err != nil || l.String() != want {
			t.Errorf("ParseLevels(%q) = %v, %v; want %q", text, l, err, want)
		}
	}
}

func TestScopesDoNotPileUp(t *testing.T) {
	l := levels(t, "info")
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		err = l.Set(strings.Repeat("x", i%90+1) + string(rune('a'+i%26)) + "=debug")
	}
	if err == nil || !strings.Contains(err.Error(), "more than 100 scopes") {
		t.Errorf("1000 scopes: %v, want an error", err)
	}
}

func TestLoggersOfSeveralGoroutinesWriteWholeLines(t *testing.T) {
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, "json", levels(t, "info"))
	var work sync.WaitGroup
	for n := range 8 {
		own := log.With("scope", "worker", "n", n)
		work.Go(func() {
			for i := range 100 {
				own.Info("line", "i", i)
			}
		})
	}
	work.Wait()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 800 {
		t.Fatalf("%d lines, want 800", len(lines))
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("connection complete", "key", "value")
	f.Add("a\nb", "k\"", "\xff\u2028\x00")
	f.Fuzz(func(t *testing.T, message, key, value string) {
		var plain, structured bytes.Buffer
		telemetry.NewLogger(&plain, "plain", levels(t, "info")).Info(message, key, value)
		telemetry.NewLogger(&structured, "json", levels(t, "info")).Info(message, key, value)
		for _, line := range []string{plain.String(), structured.String()} {
			if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
				t.Errorf("not one line: %q", line)
			}
		}
		if n := strings.Count(plain.String(), "\t"); n > 4 {
			t.Errorf("%d tabs in %q", n, plain.String())
		}
		var fields map[string]any
		if err := json.Unmarshal(structured.Bytes(), &fields); err != nil {
			t.Fatalf("not JSON: %v: %q", err, structured.String())
		}
		if len(message) < 4096 && key != "message" && fields["message"] != strings.ToValidUTF8(message, "\ufffd") && validRunes(message) {
			t.Errorf("message %q came out as %q", message, fields["message"])
		}
	})
}

// validRunes tells whether each byte that isn't UTF-8 stands alone, so that the two ways to replace them agree.
func validRunes(text string) bool { return strings.ToValidUTF8(text, "") == text }

func FuzzParseLevels(f *testing.F) {
	f.Add("info,access=debug")
	f.Add("ztunnel::proxy=trace")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := telemetry.ParseLevels(text)
		if err != nil {
			return
		}
		again, err := telemetry.ParseLevels(l.String())
		if err != nil || again.String() != l.String() {
			t.Errorf("%q reads as %q, which reads as %v, %v", text, l, again, err)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	log := telemetry.NewLogger(io.Discard, "plain", levels(b, "info")).With("scope", "access")
	addr := netip.MustParseAddrPort("10.0.0.1:8080")
	b.ReportAllocs()
	for b.Loop() {
		log.LogAttrs(context.Background(), slog.LevelInfo, "connection complete", slog.Any("src.addr", addr),
			slog.String("src.workload", "cart-1"), slog.Uint64("bytes_sent", 1000))
	}
}
