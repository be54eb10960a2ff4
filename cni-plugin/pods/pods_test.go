package pods

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhoIsEnrolled(t *testing.T) {
	full, short := Labels{"istio.io/dataplane-mode": "ambient"}, Labels{"dataplane-mode": "ambient"}
	none, shortNone := Labels{"istio.io/dataplane-mode": "none"}, Labels{"dataplane-mode": "none"}
	sidecar := Labels{"sidecar.istio.io/status": "{}"}
	in := func(namespace string) ID { return ID{Namespace: namespace} }
	rules := Rules{Excluded: []string{"kube-system", "legacy"}, System: "istio-system"}
	cases := []struct {
		name      string
		pod       Pod
		namespace Labels
		want      bool
		why       string
	}{
		{"labelled namespace", Pod{ID: in("demo")}, full, true, "label on the namespace"},
		{"labelled namespace, short", Pod{ID: in("demo")}, short, true, "label on the namespace"},
		{"labelled pod", Pod{ID: in("demo"), Labels: full}, nil, true, "label on the pod"},
		{"labelled pod, short", Pod{ID: in("demo"), Labels: short}, nil, true, "label on the pod"},
		{"labelled pod in a namespace that opted out", Pod{ID: in("demo"), Labels: full}, none, true, "label on the pod"},
		{"nothing labelled", Pod{ID: in("demo")}, nil, false, "neither pod nor namespace"},
		{"other mode", Pod{ID: in("demo")}, Labels{"istio.io/dataplane-mode": "sidecar"}, false, "neither pod nor namespace"},
		{"opted out", Pod{ID: in("demo"), Labels: none}, full, false, "opted out"},
		{"opted out, short", Pod{ID: in("demo"), Labels: shortNone}, full, false, "opted out"},
		{"an unknown mode on the pod isn't opting out", Pod{ID: in("demo"), Labels: Labels{"istio.io/dataplane-mode": "x"}}, full, true, "label on the namespace"},
		{"the full name wins on the pod", Pod{ID: in("demo"), Labels: Labels{"istio.io/dataplane-mode": "none", "dataplane-mode": "ambient"}}, full, false, "opted out"},
		{"the full name wins on the namespace", Pod{ID: in("demo")}, Labels{"istio.io/dataplane-mode": "none", "dataplane-mode": "ambient"}, false, "neither"},
		{"host network", Pod{ID: in("demo"), Labels: full, HostNetwork: true}, full, false, "host's network"},
		{"sidecar", Pod{ID: in("demo"), Labels: full, Annotations: sidecar}, full, false, "sidecar"},
		{"excluded namespace", Pod{ID: in("kube-system")}, full, false, "excluded"},
		{"excluded namespace, labelled pod", Pod{ID: in("legacy"), Labels: full}, full, false, "namespace legacy is excluded"},
		{"completed job", Pod{ID: in("demo"), Labels: full, Ended: true}, full, false, "has ended"},
		{"the tunnel proxy itself", Pod{ID: in("istio-system"), Labels: Labels{"app": "ztunnel"}}, full, false, "tunnel proxy"},
		{"the tunnel proxy, labelled", Pod{ID: in("istio-system"), Labels: Labels{"app": "ztunnel", "dataplane-mode": "ambient"}}, nil, false, "tunnel proxy"},
		{"another pod of its namespace", Pod{ID: in("istio-system")}, full, true, "label on the namespace"},
		{"its name elsewhere", Pod{ID: in("demo"), Labels: Labels{"app": "ztunnel"}}, full, true, "label on the namespace"},
	}
	for _, c := range cases {
		got := rules.Decide(c.pod, c.namespace)
		if got.In != c.want || !strings.Contains(got.Why, c.why) {
			t.Errorf("%s: %v because %q, want %v because %q", c.name, got.In, got.Why, c.want, c.why)
		}
	}
}

func TestHowAPodIsCaptured(t *testing.T) {
	cases := []struct {
		name        string
		dns         bool
		annotations Labels
		want        Capture
		ignored     string
	}{
		{"as all others", false, nil, Capture{}, ""},
		{"as all others, with DNS", true, nil, Capture{DNS: true}, ""},
		{"DNS by annotation", false, Labels{"ambient.istio.io/dns-capture": "true"}, Capture{DNS: true}, ""},
		{"no DNS by annotation", true, Labels{"ambient.istio.io/dns-capture": "false"}, Capture{}, ""},
		{"no flag for DNS", true, Labels{"ambient.istio.io/dns-capture": "maybe"}, Capture{DNS: true}, `ambient.istio.io/dns-capture is "maybe": want true or false`},
		{"ingress", false, Labels{"ambient.istio.io/bypass-inbound-capture": "true"}, Capture{Ingress: true}, ""},
		{"not ingress", false, Labels{"ambient.istio.io/bypass-inbound-capture": "false"}, Capture{}, ""},
		{"virtual interfaces", false, Labels{"istio.io/reroute-virtual-interfaces": " tap0, ,docker0,tap0"}, Capture{Virtual: "docker0,tap0"}, ""},
		{"loopback", false, Labels{"istio.io/reroute-virtual-interfaces": "lo"}, Capture{}, `istio.io/reroute-virtual-interfaces has "lo": want names of interfaces with commas between them`},
		{"a pattern", false, Labels{"istio.io/reroute-virtual-interfaces": "tap+"}, Capture{}, `istio.io/reroute-virtual-interfaces has "tap+": want names of interfaces with commas between them`},
		{"too many", false, Labels{"istio.io/reroute-virtual-interfaces": "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"}, Capture{}, "istio.io/reroute-virtual-interfaces has 17 interfaces, more than 16"},
		{"not an interface", false, Labels{"istio.io/reroute-virtual-interfaces": "tap0,../eth0"}, Capture{}, `istio.io/reroute-virtual-interfaces has "../eth0": want names of interfaces with commas between them`},
		{"everything wrong", false, Labels{"ambient.istio.io/dns-capture": "\n", "ambient.istio.io/bypass-inbound-capture": strings.Repeat("x", 100)}, Capture{},
			`ambient.istio.io/bypass-inbound-capture is "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\u2026": want true or false; ambient.istio.io/dns-capture is "\n": want true or false`},
	}
	for _, c := range cases {
		pod := Pod{ID: ID{Namespace: "demo"}, Annotations: c.annotations}
		got := Rules{DNS: c.dns}.Decide(pod, Labels{"istio.io/dataplane-mode": "ambient"})
		if diff := cmp.Diff(Decision{In: true, Why: "label on the namespace", Capture: c.want, Ignored: c.ignored}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func FuzzInterfaces(f *testing.F) {
	for _, text := range []string{"", "tap0", " tap0, ,docker0", "lo", "-i,x", "k6t-eth0,br-0a1b2c3d4e5f", "tap0\n-j ACCEPT"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		names, wrong := interfaces(text)
		if wrong != "" && names != "" || strings.ContainsAny(names, " \"'\n+!\x00") || strings.HasPrefix(names, "-") || strings.Contains(names, ",-") {
			t.Errorf("%q: %q, %q", text, names, wrong)
		}
		if again, wrong := interfaces(names); again != names || wrong != "" {
			t.Errorf("%q read again is %q, %q", names, again, wrong)
		}
	})
}

func TestWhatDoesntDecideIsDropped(t *testing.T) {
	got := Labels{"app": "cart", "dataplane-mode": "none", "version": "v1", "sidecar.istio.io/status": ""}.Decisive()
	if diff := cmp.Diff(Labels{"app": "cart", "dataplane-mode": "none", "sidecar.istio.io/status": ""}, got); diff != "" {
		t.Error(diff)
	}
	if got := (Labels{"version": "v1"}).Decisive(); got != nil {
		t.Errorf("got %v", got)
	}
}
