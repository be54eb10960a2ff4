package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

const testWait = 10 * time.Second // of every wait in these tests

var (
	clientIP, serverIP = netip.MustParseAddr("10.94.0.1"), netip.MustParseAddr("10.94.0.2")
	proxyAddrs         = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15053"), netip.MustParseAddrPort("[::1]:15053")}
)

// rig is a pod with a DNS proxy, and a name server that only the pod's namespace can reach.
type rig struct {
	t      *testing.T
	client *netns.Namespace
	server *netns.Namespace
	up     *upstream
	store  *state.Store
	reg    *prometheus.Registry
	log    *logBuffer
	node   *Node
	conf   string // path of ztunnel's resolv.conf
}

func newRig(t *testing.T, handle func(*dns.Msg, string) *dns.Msg) *rig {
	t.Helper()
	r := &rig{
		t: t, client: netns.New(t, "tulle-dns-test"), server: netns.New(t, "tulle-dns-test"),
		store: state.NewStore(), reg: prometheus.NewRegistry(), log: &logBuffer{}, conf: filepath.Join(t.TempDir(), "resolv.conf"),
	}
	netns.Connect(r.client, r.server, "eth0", []netip.Prefix{netip.PrefixFrom(clientIP, 24)}, []netip.Prefix{netip.PrefixFrom(serverIP, 24)})
	r.up = newUpstream(t, r.server.Netns, serverIP.String()+":53", handle)
	r.write("nameserver " + serverIP.String())
	levels, err := telemetry.ParseLevels("debug")
	if err != nil {
		t.Fatal(err)
	}
	writer := telemetry.NewWriter(r.log)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		defer cancel()
		writer.Close(ctx)
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	r.node = NewNode(Config{
		Store: r.store, Metrics: telemetry.NewDNS(r.reg), Log: telemetry.NewLogger(writer, "plain", levels).With("scope", "dns"),
		ResolvConf: r.conf, Domain: "cluster.local", Preferred: "ns4", IPv6: true, Mark: socket.Mark, ReusePort: true,
	})
	return r
}

func (r *rig) write(conf string) {
	r.t.Helper()
	if err := os.WriteFile(r.conf, []byte(conf), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// load makes the mesh of testdata known.
func (r *rig) load() {
	r.t.Helper()
	text, err := os.ReadFile("testdata/mesh.yaml")
	if err != nil {
		r.t.Fatal(err)
	}
	update, err := state.Read(text)
	if err == nil {
		err = r.store.Apply(update)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) config() PodConfig {
	return PodConfig{
		Name: "client", Namespace: "ns1", Identity: "spiffe://cluster.local/ns/ns1/sa/client", Netns: r.client.Netns,
		Known: func(t *state.Table) *state.Workload { return t.ByPod("ns1", "client", "client") },
	}
}

func (r *rig) open(cfg PodConfig) *Pod {
	r.t.Helper()
	p := r.node.Pod(cfg)
	r.t.Cleanup(p.Close)
	if err := p.Listen(proxyAddrs, nil); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// resolver is what an application in the pod has: Go's, which asks the proxy as if its packets had been redirected there.
func (r *rig) resolver(protocol string, at netip.AddrPort) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if protocol == "tcp" || strings.HasPrefix(network, "tcp") {
			return r.client.Dial(ctx, at, socket.DialConfig{})
		}
		return r.client.DialUDP(at, 0)
	}}
}

func (r *rig) lookup(protocol, network, host string) string {
	return r.lookupAt(protocol, network, host, proxyAddrs[0])
}

// lookupAt returns the addresses in order, or the error.
func (r *rig) lookupAt(protocol, network, host string, at netip.AddrPort) string {
	ctx, cancel := context.WithTimeout(r.t.Context(), testWait)
	defer cancel()
	list, err := r.resolver(protocol, at).LookupNetIP(ctx, network, host)
	var failure *net.DNSError
	switch {
	case errors.As(err, &failure):
		return failure.Err
	case err != nil:
		return err.Error()
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return fmt.Sprint(list)
}

// exchange asks the proxy one question and returns the whole reply.
func (r *rig) exchange(protocol string, msg *dns.Msg) *dns.Msg {
	r.t.Helper()
	var conn net.Conn
	var err error
	if protocol == "tcp" {
		conn, err = r.client.Dial(r.t.Context(), proxyAddrs[0], socket.DialConfig{})
	} else {
		conn, err = r.client.DialUDP(proxyAddrs[0], 0)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testWait))
	c := &dns.Conn{Conn: conn, UDPSize: 65535}
	if err := c.WriteMsg(msg); err != nil {
		r.t.Fatal(err)
	}
	reply, err := c.ReadMsg()
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

// metric sums the series of a name that have all of these labels.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	var sum float64
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			text := m.String()
			if !slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains(text, `"`+label+`"`) }) {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(testWait); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain to %s", what)
		}
	}
}

func TestApplicationsResolveNames(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1", "outside.example. 60 IN AAAA 2001:db8::1", "four.example. 60 IN A 192.0.2.4"))
	r.load()
	r.open(r.config())
	for _, test := range []struct{ what, network, host, want string }{
		{"service", "ip4", "details.ns1.svc.cluster.local.", "[10.96.0.1]"},
		{"service by its short name", "ip4", "reviews.ns2.", "[10.96.0.2]"},
		{"service with both families", "ip", "reviews.ns2.svc.cluster.local.", "[10.96.0.2 fd96::2]"},
		{"headless service", "ip4", "web.ns1.svc.cluster.local.", "[10.0.2.1 10.0.2.2]"},
		{"search domain", "ip", "www.example.com.ns1.svc.cluster.local.", "[240.240.0.1 2001:2::1]"},
		{"wildcard", "ip", "x.wild.example.com.", "[240.240.0.2]"},
		{"outside", "ip", "outside.example.", "[192.0.2.1 2001:db8::1]"},
		{"outside, one family", "ip", "four.example.", "[192.0.2.4]"},
		{"outside, not there", "ip", "missing.example.", "no such host"},
		{"service without that family", "ip6", "details.ns1.svc.cluster.local.", "no such host"},
	} {
		for _, protocol := range []string{"udp", "tcp"} {
			for _, at := range proxyAddrs {
				if got := r.lookupAt(protocol, test.network, test.host, at); got != test.want {
					t.Errorf("%s by %s from %v: %s, want %s", test.what, protocol, at, got, test.want)
				}
			}
		}
	}
	// Each question went out once, whatever the protocol: the rest came from the cache.
	asked := r.up.questions()
	slices.Sort(asked)
	want := "udp A four.example., udp A missing.example., udp A outside.example., udp AAAA four.example., udp AAAA missing.example., udp AAAA outside.example."
	if got := strings.Join(asked, ", "); got != want {
		t.Errorf("the name server was asked\n%s, want\n%s", got, want)
	}
}

func TestUDPAndTCPCarryWhatFits(t *testing.T) {
	var texts []string
	for i := range 1000 {
		texts = append(texts, fmt.Sprintf("large.example. 60 IN A 10.9.%d.%d", i/250, i%250+1))
	}
	all := zone(t, texts...)
	r := newRig(t, func(q *dns.Msg, protocol string) *dns.Msg {
		reply := all(q, protocol)
		if protocol == "udp" {
			reply.Truncate(dns.MinMsgSize)
		}
		return reply
	})
	r.load()
	r.open(r.config())
	msg := new(dns.Msg).SetQuestion("large.example.", dns.TypeA)
	if reply := r.exchange("udp", msg); !reply.Truncated || len(reply.Answer) == 0 || len(reply.Answer) == 1000 {
		t.Errorf("by UDP: %d records, cut: %v", len(reply.Answer), reply.Truncated)
	}
	if reply := r.exchange("udp", msg.Copy().SetEdns0(4096, false)); !reply.Truncated || len(reply.Answer) < 200 || reply.IsEdns0() == nil {
		t.Errorf("by UDP with EDNS: %d records, cut: %v", len(reply.Answer), reply.Truncated)
	}
	if reply := r.exchange("tcp", msg); reply.Truncated || len(reply.Answer) != 1000 {
		t.Errorf("by TCP: %d records, cut: %v", len(reply.Answer), reply.Truncated)
	}
	// A whole resolver does the same by itself.
	if got := r.lookup("udp", "ip4", "large.example."); strings.Count(got, "10.9.") != 1000 {
		t.Errorf("a resolver finds %d addresses", strings.Count(got, "10.9."))
	}
}

func TestFailuresArePassedOn(t *testing.T) {
	r := newRig(t, code(dns.RcodeRefused))
	r.load()
	r.open(r.config())
	if reply := r.exchange("udp", new(dns.Msg).SetQuestion("a.example.", dns.TypeA)); reply.Rcode != dns.RcodeRefused {
		t.Errorf("a refusal is passed on as %s", dns.RcodeToString[reply.Rcode])
	}
	if reply := r.exchange("udp", new(dns.Msg).SetQuestion("details.ns1.svc.cluster.local.", dns.TypeTXT)); reply.Rcode != dns.RcodeRefused {
		t.Errorf("a question for texts is answered with %s", dns.RcodeToString[reply.Rcode])
	}
}

func TestSilentServersAreAFailure(t *testing.T) {
	r := newRig(t, zone(t))
	r.write("nameserver 10.94.0.99") // nobody
	r.load()
	r.open(r.config())
	start := time.Now()
	if reply := r.exchange("udp", new(dns.Msg).SetQuestion("b.example.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure || time.Since(start) > 5*time.Second {
		t.Errorf("without a server: %s after %v", dns.RcodeToString[reply.Rcode], time.Since(start))
	}
	if r.metric("istio_dns_upstream_failures_total", "client", "A", "udp") != 1 {
		t.Error("the failure isn't counted")
	}
}

func TestUnknownPodIsWaitedFor(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1"))
	r.open(r.config())
	answers := make(chan string)
	go func() { answers <- r.lookup("udp", "ip4", "details.ns1.svc.cluster.local.") }()
	eventually(t, "see a question that waits", func() bool { return strings.Contains(stacks(), "dns.(*Pod).wait") })
	r.load()
	if got := <-answers; got != "[10.96.0.1]" {
		t.Errorf("once the pod is known the answer is %s", got)
	}
}

func TestPodThatStaysUnknownGetsFailures(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1"))
	r.open(r.config())
	if reply := r.exchange("tcp", new(dns.Msg).SetQuestion("outside.example.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("an unknown pod gets %v", reply)
	}
	if n := len(r.up.questions()); n != 0 {
		t.Errorf("%d questions of an unknown pod went out", n)
	}
	if r.metric("istio_dns_requests_total", "A", "tcp", "unknown") != 1 {
		t.Error("the question isn't counted")
	}
}

func TestPodsOwnNameServersAreAsked(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1"))
	other := newUpstream(t, r.server.Netns, serverIP.String()+":5353", zone(t, "outside.example. 60 IN A 192.0.2.2"))
	r.load()
	cfg := r.config()
	cfg.Own = &ResolvConf{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), other.addr}, Search: []string{"corp.example"}, Ndots: 1}
	r.open(cfg)
	if got := r.lookup("udp", "ip4", "outside.example."); got != "[192.0.2.2]" {
		t.Errorf("the pod's own server would say 192.0.2.2, not %s", got)
	}
	if got := r.lookup("udp", "ip4", "www.example.com.corp.example."); got != "[240.240.0.1]" {
		t.Errorf("with the pod's own search domain: %s", got)
	}
}

func TestServersFollowTheFile(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1"))
	f := follower{path: r.conf, log: slog.New(slog.DiscardHandler)}
	if got := fmt.Sprint(f.load().Servers); got != "[10.94.0.2:53]" {
		t.Errorf("servers are %s", got)
	}
	r.write("nameserver 10.0.0.1\nnameserver 127.0.0.1\n")
	if got := fmt.Sprint(f.load().Servers); got != "[10.94.0.2:53]" {
		t.Errorf("the file is read for every question: %s", got)
	}
	f.looked = f.looked.Add(-reloadInterval)
	if got := fmt.Sprint(f.load().Servers, f.load().reachable()); got != "[10.0.0.1:53 127.0.0.1:53] [10.0.0.1:53]" {
		t.Errorf("servers are %s", got)
	}
	if err := os.Remove(r.conf); err != nil {
		t.Fatal(err)
	}
	f.looked = f.looked.Add(-reloadInterval)
	if got := fmt.Sprint(f.load().reachable()); got != "[10.0.0.1:53]" {
		t.Errorf("without the file, servers are %s", got)
	}
}

// Two pods of one identity share answers; a pod of another identity, which may be forging them, shares none.
func TestCacheIsSharedByIdentity(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1"))
	r.load()
	same, other := r.config(), r.config()
	other.Identity = "spiffe://cluster.local/ns/ns1/sa/other"
	first, second, third := r.node.Pod(r.config()), r.node.Pod(same), r.node.Pod(other)
	for i, p := range []*Pod{first, second, third} {
		if list, err := p.Resolve(t.Context(), "outside.example"); err != nil || len(list) != 1 {
			t.Errorf("pod %d: %v, %v", i, list, err)
		}
	}
	if n := len(r.up.questions()); n != 4 { // A and AAAA of two identities
		t.Errorf("%d questions went out: %q", n, r.up.questions())
	}
	for _, p := range []*Pod{first, second, third} {
		p.Close()
	}
	if len(r.node.caches) != 0 {
		t.Errorf("%d caches are left", len(r.node.caches))
	}
}

func TestPodResolvesForItsProxy(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1", "alias.example. 60 IN CNAME outside.example."))
	r.load()
	p := r.open(r.config())
	for host, want := range map[string]string{
		"details": "[10.96.0.1]", "reviews.ns2": "[10.96.0.2 fd96::2]", "outside.example.": "[192.0.2.1]", "192.0.2.7": "[192.0.2.7]", "::1": "[::1]",
		"missing.example": "error", "empty": "error", "": "error", "a..b": "error",
	} {
		list, err := p.Resolve(t.Context(), host)
		got := fmt.Sprint(list)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q is %s (%v), want %s", host, got, err, want)
		}
	}
}

func TestLoopbackWithoutIPv6IsNoFailure(t *testing.T) {
	r := newRig(t, zone(t))
	r.load()
	r.client.Sysctl("net.ipv6.conf.lo.disable_ipv6", "1")
	r.open(r.config())
	if got := r.lookup("udp", "ip4", "details.ns1.svc.cluster.local."); got != "[10.96.0.1]" {
		t.Errorf("without IPv6: %s", got)
	}
}

// Some pods have IPv6 on their loopback and yet no ::1. That must not keep them from being served.
func TestIPv6LoopbackThatCantBeUsedIsAWarning(t *testing.T) {
	r := newRig(t, zone(t))
	r.load()
	taken, err := r.client.Netns.ListenUDP(socket.ListenConfig{Addr: proxyAddrs[1]})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r.open(r.config())
	if got := r.lookup("udp", "ip4", "details.ns1.svc.cluster.local."); got != "[10.96.0.1]" {
		t.Errorf("without ::1: %s", got)
	}
	eventually(t, "see the warning", func() bool { return strings.Contains(r.log.String(), "names can't be asked for over IPv6 loopback") })
}

func TestTakenPortIsAnErrorWithRemedy(t *testing.T) {
	r := newRig(t, zone(t))
	taken, err := r.client.Netns.ListenUDP(socket.ListenConfig{Addr: proxyAddrs[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := r.node.Pod(r.config())
	defer p.Close()
	if err := p.Listen(proxyAddrs, nil); err == nil || !strings.Contains(err.Error(), "127.0.0.1:15053") {
		t.Errorf("error is %v", err)
	}
}

// When a ztunnel hands over to another one, nobody's question is lost: both share the port, and the old one answers what
// it was asked before it closes.
func TestHandOverLosesNoQuestion(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1"))
	r.load()
	old := r.open(r.config())
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for ctx.Err() == nil {
				conn, err := r.client.DialUDP(proxyAddrs[0], 0)
				if err != nil {
					t.Error(err)
					return
				}
				conn.SetDeadline(time.Now().Add(testWait))
				c := &dns.Conn{Conn: conn}
				if err := c.WriteMsg(new(dns.Msg).SetQuestion("details.ns1.svc.cluster.local.", dns.TypeA)); err != nil {
					t.Error(err)
				}
				if _, err := c.ReadMsg(); err != nil {
					t.Errorf("a question was lost: %v", err)
				}
				conn.Close()
			}
		})
	}
	for range 5 {
		next := r.open(r.config())
		drained, stop := context.WithTimeout(t.Context(), testWait)
		old.Drain(drained)
		stop()
		old.Close()
		old = next
	}
	cancel()
	asking.Wait()
}

func TestQuestionsAreCountedAndLogged(t *testing.T) {
	r := newRig(t, zone(t, "outside.example. 60 IN A 192.0.2.1"))
	r.load()
	r.open(r.config())
	r.exchange("udp", new(dns.Msg).SetQuestion("details.ns1.svc.cluster.local.", dns.TypeA))
	r.exchange("tcp", new(dns.Msg).SetQuestion("outside.example.", dns.TypeA))
	r.exchange("udp", new(dns.Msg).SetQuestion("outside.example.", dns.TypeA)) // from the cache
	r.exchange("udp", new(dns.Msg).SetQuestion("outside.example.", 65000))
	for _, want := range []struct {
		name   string
		labels []string
		value  float64
	}{
		{"istio_dns_requests_total", []string{"A", "udp", "client", "v1"}, 2},
		{"istio_dns_requests_total", []string{"A", "tcp", "client", "v1"}, 1},
		{"istio_dns_requests_total", []string{"unknown", "udp", "client", "v1"}, 1},
		{"istio_dns_upstream_requests_total", []string{"A", "tcp", "client", "v1"}, 1},
		{"istio_dns_upstream_requests_total", nil, 2},
		{"istio_dns_upstream_request_duration_seconds", []string{"A", "tcp", "client", "v1"}, 1},
		{"istio_dns_upstream_failures_total", nil, 0},
	} {
		if got := r.metric(want.name, want.labels...); got != want.value {
			t.Errorf("%s%v is %v, want %v", want.name, want.labels, got, want.value)
		}
	}
	eventually(t, "see the lines in the log", func() bool {
		text := r.log.String()
		return strings.Contains(text, "\tdns\tdns request complete\t") && strings.Contains(text, `name="details.ns1.svc.cluster.local."`) &&
			strings.Contains(text, "mesh=true") && strings.Contains(text, "mesh=false")
	})
}

func TestIdleTCPConnectionsEnd(t *testing.T) {
	r := newRig(t, zone(t))
	r.load()
	p := r.open(r.config())
	conn, err := r.client.Dial(t.Context(), proxyAddrs[0], socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testWait))
	start := time.Now()
	if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(start) < tcpIdle-time.Second || time.Since(start) > tcpIdle+2*time.Second {
		t.Errorf("an idle connection ends after %v with %v", time.Since(start), err)
	}
	second, err := r.client.Dial(t.Context(), proxyAddrs[0], socket.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	p.Close() // does not wait for idle connections
}

// A pod whose questions nobody answers has a bounded number of them under way; the rest are told so at once, and names
// of the mesh are answered all the same.
func TestQuestionsUnderWayAreBounded(t *testing.T) {
	r := newRig(t, func(*dns.Msg, string) *dns.Msg { return nil })
	r.load()
	r.open(r.config())
	conn, err := r.client.DialUDP(proxyAddrs[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &dns.Conn{Conn: conn}
	for i := range 2 * maxForwarding {
		if err := c.WriteMsg(new(dns.Msg).SetQuestion(fmt.Sprintf("name-%d.example.", i), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	conn.SetDeadline(time.Now().Add(testWait))
	for i := range maxForwarding {
		reply, err := c.ReadMsg()
		if err != nil || reply.Rcode != dns.RcodeServerFailure {
			t.Fatalf("question %d: %v, %v", i, reply, err)
		}
	}
	start := time.Now()
	if got := r.lookup("udp", "ip4", "details.ns1.svc.cluster.local."); got != "[10.96.0.1]" || time.Since(start) > 3*time.Second {
		t.Errorf("a name of the mesh is %s after %v", got, time.Since(start))
	}
}

func stacks() string {
	buffer := make([]byte, 1<<20)
	return string(buffer[:runtime.Stack(buffer, true)])
}
