package redirect

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden listings")

// before are the sysctls of a namespace; an empty value means that the kernel doesn't have it.
func before(reuse, migrate string) []Sysctl {
	all := []Sysctl{{"net.ipv4.tcp_tw_reuse", reuse}, {"net.ipv4.tcp_migrate_req", migrate}}
	return slices.DeleteFunc(all, func(s Sysctl) bool { return s.Value == "" })
}

func TestPlansReadAsTheyAreDocumented(t *testing.T) {
	cases := map[string]Wish{
		"capture":         {State: Capture, IPv6: true, Remembered: before("2", "0")},
		"capture_ipv4":    {State: Capture, Remembered: before("0", "")}, // a kernel older than 5.14
		"capture_dns":     {State: Capture, How: How{DNS: true}, IPv6: true, Remembered: before("2", "0")},
		"capture_ingress": {State: Capture, How: How{Ingress: true}, IPv6: true, Remembered: before("2", "0")},
		"capture_virtual": {State: Capture, How: How{Virtual: "docker0,tap0"}, IPv6: true, Remembered: before("2", "0")},
		"draining":        {State: Draining, IPv6: true, Remembered: before("2", "0")},
		"removed":         {State: Removed, IPv6: true, Remembered: before("2", "0")},
	}
	for name, wish := range cases {
		t.Run(name, func(t *testing.T) {
			wantGolden(t, name, Plan(wish).String())
		})
	}
}

func wantGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("plan differs from %s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

// What iptables gets is what it shows again, so restoring a plan in an empty namespace is the plan itself.
func TestPlansForIptablesReadAsTheyAreDocumented(t *testing.T) {
	for name, wish := range map[string]Wish{
		"iptables":          {State: Capture, IPv6: true, Remembered: before("2", "0")},
		"iptables_dns":      {State: Capture, How: How{DNS: true}, IPv6: true, Remembered: before("2", "0")},
		"iptables_ingress":  {State: Capture, How: How{Ingress: true}, Remembered: before("2", "0")},
		"iptables_virtual":  {State: Capture, How: How{Virtual: "docker0,tap0"}, IPv6: true, Remembered: before("2", "0")},
		"iptables_draining": {State: Draining, Remembered: before("0", "")},
	} {
		t.Run(name, func(t *testing.T) {
			got := "# iptables-restore --noflush\n" + restore(nil, planXTables(wish, ipv4)) + "# ip6tables-restore --noflush\n" + restore(nil, planXTables(wish, ipv6))
			wantGolden(t, name, got)
			for _, f := range []family{ipv4, ipv6} {
				planned := planXTables(wish, f)
				if diff := cmp.Diff(listXTables("", planned), listXTables("", parseXTables(restore(nil, planned)))); diff != "" {
					t.Errorf("read back (-planned +read):\n%s", diff)
				}
			}
		})
	}
}

func TestProbePlansReadAsTheyAreDocumented(t *testing.T) {
	both := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::1")}
	for name, addrs := range map[string][]netip.Addr{"probes": both, "probes_ipv4": both[:2]} {
		t.Run(name, func(t *testing.T) {
			wantGolden(t, name, Rules{Tables: planProbes(addrs)}.String()+"# iptables-restore --noflush\n"+restoreProbes(nil, planXProbes(addrs, ipv4)))
			if got := probeAddrs(append(planXProbes(addrs, ipv4), planXProbes(addrs, ipv6)...)); !slices.Equal(got, addrs) {
				t.Errorf("rules of iptables are for %v", got)
			}
		})
	}
	if text := (Rules{Tables: planProbes(nil)}).String() + strings.Join(planXProbes(nil, ipv4), ""); text != "" {
		t.Errorf("without a pod there are rules:\n%s", text)
	}
}

func TestRulesOfOthersStayInIptables(t *testing.T) {
	const others = `*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp -j ACCEPT
COMMIT
`
	const sidecar = `*nat
:PREROUTING ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_INBOUND - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
COMMIT
`
	const mixed = `*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.1
-A PREROUTING -j ISTIO_PRERT
-A PREROUTING -p tcp -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
`
	cases := map[string]struct {
		found string
		wish  State
		want  string
	}{
		"nothing to remove":        {others, Removed, ""},
		"a sidecar's aren't ours":  {sidecar, Removed, ""},
		"other jumps are put back": {mixed, Removed, "*nat\n:ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-D PREROUTING -j ISTIO_PRERT\n-D PREROUTING -p tcp -j ISTIO_PRERT\n-D OUTPUT -j ISTIO_OUTPUT\n-X ISTIO_PRERT\n-X ISTIO_OUTPUT\nCOMMIT\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, restore(parseXTables(c.found), planXTables(Wish{State: c.wish}, ipv4))); diff != "" {
				t.Errorf("input of iptables-restore (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCommentsOfStrangersAreReadSafely(t *testing.T) {
	cases := map[string]struct {
		data []byte
		want string
	}{
		"none":                  {nil, ""},
		"ours":                  {userData("before"), "before"},
		"behind another entry":  {append([]byte{7, 2, 'x', 'y'}, userData("before")...), "before"},
		"length beyond the end": {[]byte{commentType, 200, 'x'}, ""},
		"half a header":         {[]byte{commentType}, ""},
		"empty entries":         {[]byte{7, 0, 7, 0, commentType, 0}, ""},
	}
	for name, c := range cases {
		if got := comment(c.data); got != c.want {
			t.Errorf("%s: comment is %q, want %q", name, got, c.want)
		}
	}
}

func TestOnlyPlausibleRememberedValuesAreBelieved(t *testing.T) {
	for comment, want := range map[string][]Sysctl{
		remember(before("0", "1")): before("0", "1"), remember(before("1", "0")): before("1", "0"), remember(before("2", "")): before("2", ""),
		remember(before("3", "0")): before("", "0"), remember(before("22", "2")): nil, remember(nil): nil, "something else": nil, "": nil,
		"net.ipv4.tcp_tw_reuse=1": nil, "before: net.ipv4.tcp_tw_reuse=": nil, "before: xnet.ipv4.tcp_tw_reuse=1": nil,
	} {
		got := remembered([]string{comment})
		if len(got) != len(want) || slices.ContainsFunc(want, func(s Sysctl) bool { return got[s.Name] != s.Value }) {
			t.Errorf("remembered(%q) = %v, want %v", comment, got, want)
		}
	}
}

func FuzzComment(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(userData(remember(before("2", "0"))))
	f.Add([]byte{commentType, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if got := comment(data); len(got) > len(data) {
			t.Errorf("comment of %d bytes from %d", len(got), len(data))
		}
	})
}

func FuzzSavedRules(f *testing.F) {
	f.Add(restore(nil, planXTables(Wish{State: Capture, How: How{DNS: true}, Remembered: before("2", "0")}, ipv4)))
	f.Fuzz(func(t *testing.T, text string) {
		found := parseXTables(text)
		remembered(commentsOf(found))
		for line := range strings.Lines(restore(found, nil)) {
			if line[0] == '-' && line[1] != 'D' && line[1] != 'X' {
				t.Errorf("removal makes a rule: %s", line)
			}
		}
	})
}

func FuzzProbeRules(f *testing.F) {
	f.Add(strings.Join(planXProbes([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, ipv4), "\n"))
	f.Add("-A POSTROUTING -j ISTIO_POSTRT\n-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE\n-A ISTIO_POSTRT -d 10.0.0.0/8 -j SNAT\n")
	f.Fuzz(func(t *testing.T, text string) {
		found := parseXProbes(text)
		for _, addr := range probeAddrs(found) {
			if !addr.IsValid() {
				t.Error("no address")
			}
		}
		for line := range strings.Lines(restoreProbes(found, nil)) {
			if line[0] == '-' && !strings.HasPrefix(line, "-D POSTROUTING ") && line != "-X ISTIO_POSTRT\n" {
				t.Errorf("removal makes a rule, or takes one of others: %s", line)
			}
		}
	})
}

func FuzzSocketMessage(f *testing.F) {
	f.Add(make([]byte, diagMessageLen))
	f.Add(append(make([]byte, diagMessageLen), 8, 0, diagMark, 0, 0x39, 5, 0, 0))
	f.Add([]byte{10, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseSocket(data); err == nil && !s.local.IsValid() {
			t.Error("a socket without address")
		}
	})
}
