package table_test

import (
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkChange tells what a changed route costs among 5,000: of one port, or of a service each; and what they keep in memory.
func BenchmarkChange(b *testing.B) {
	for name, service := range map[string]func(int) string{
		"one-port": func(int) string { return "shop/web" }, "services": func(i int) string { return fmt.Sprintf("shop/web-%d", i) },
	} {
		b.Run(name, func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			builder := newBuilder(b)
			set := func(i int) {
				r := resource(b, fmt.Sprintf(`schema:1 origin{kind:"HTTPRoute" namespace:"shop" name:"r-%d"} targets{service:%q ports:80} route{protocol:HTTP precedence:"%06d" rules{
					matches{rank:9 path{prefix:"/items-%d"} headers{name:"x-user" exact:"u"}} matches{rank:8 path{regex:"/re-%d/[0-9]+"}} backends{weight:1 ref{service:"shop/backend" port:80}}}}`,
					i, service(i), i, i, i))
				if err := builder.Set(fmt.Sprint(i), r, now); err != nil {
					b.Fatal(err)
				}
			}
			for i := range 5000 {
				set(i)
			}
			builder.Table()
			runtime.GC()
			runtime.ReadMemStats(&after)
			for b.Loop() {
				set(17)
				builder.Table()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MB")
			runtime.KeepAlive(builder)
		})
	}
}

// BenchmarkLookup tells what a connection costs.
func BenchmarkLookup(b *testing.B) {
	builder := newBuilder(b)
	for i := range 5000 {
		if err := builder.Set(fmt.Sprint(i), resource(b, httpRoute("r", fmt.Sprintf(`targets{service:"shop/web-%d" ports:80}`, i))), now); err != nil {
			b.Fatal(err)
		}
	}
	t := builder.Table()
	b.ReportAllocs()
	for b.Loop() {
		if t.Lookup("shop/web-17", 80, "team").Routes == nil {
			b.Fatal("no routes")
		}
	}
}
