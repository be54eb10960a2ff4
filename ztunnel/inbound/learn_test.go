package inbound

import (
	"fmt"
	"testing"
)

// A hostname is asked for where validate and resolve look for it.
func TestHostsAreAskedForWhereTheyMayBeDefined(t *testing.T) {
	for host, want := range map[string]string{
		"web.demo.svc.cluster.local":  "[demo/web.demo.svc.cluster.local]",
		"web.other.svc.cluster.local": "[demo/web.other.svc.cluster.local other/web.other.svc.cluster.local]",
		"web.other.svc":               "[demo/web.other.svc other/web.other.svc]",
		"example.com":                 "[demo/example.com]",
		"a.b.c.d":                     "[demo/a.b.c.d]",
	} {
		if got := fmt.Sprint(hostKeys("demo", host)); got != want {
			t.Errorf("%s is asked for as %s, want %s", host, got, want)
		}
	}
}
