package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

// captureNames sends the pod's DNS questions to ztunnel, by the least rules that Istio's ones boil down to.
func captureNames(t *testing.T, pod *netns.Namespace) {
	t.Helper()
	err := pod.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "capture-names"})
		before := *nftables.ChainPriorityNATDest - 1 // the capture of connections
		chain := conn.AddChain(&nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: &before})
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule(
				interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpNeq),
				[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}}},
				[]expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(53)}},
				mark(0x539, expr.CmpOpNeq), redirect(15053))})
		}
		return conn.Flush()
	})
	if err != nil {
		t.Fatalf("capture names of %s: %v", pod.Name, err)
	}
}

// serveNames runs a name server until the test ends. It knows one address for each name.
func serveNames(t *testing.T, where *socket.Netns, at netip.AddrPort, addrs map[string]string) {
	t.Helper()
	udp, err := where.ListenUDP(socket.ListenConfig{Addr: at})
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		if addr, known := addrs[q.Question[0].Name]; known {
			r.Rcode = dns.RcodeSuccess
			if q.Question[0].Qtype == dns.TypeA {
				record, err := dns.NewRR(q.Question[0].Name + " 60 IN A " + addr)
				if err != nil {
					t.Error(err)
				}
				r.Answer = append(r.Answer, record)
			}
		}
		_ = w.WriteMsg(r)
	})}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go server.ActivateAndServe()
	<-started
	t.Cleanup(func() { server.Shutdown() })
}

// resolve asks as the pod's applications do, whose name server is outside.
func (p *testPod) resolve(t *testing.T, protocol string, server netip.Addr, host string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		to := netip.AddrPortFrom(server, 53)
		if protocol == "tcp" {
			return p.Dial(ctx, to, socket.DialConfig{})
		}
		return p.DialUDP(to, 0)
	}}
	list, err := resolver.LookupNetIP(ctx, "ip", host)
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

// nameMesh has a client whose DNS is captured, and name servers outside and where ztunnel itself is.
func nameMesh(t *testing.T, resolver *zds.Resolver) *mesh {
	t.Helper()
	m := newMesh(t)
	own := netip.MustParseAddr("127.94.0.1")
	serveNames(t, m.outside.Netns, netip.AddrPortFrom(m.outside.v4, 53), map[string]string{"www.example.": "192.0.2.1"})
	serveNames(t, m.outside.Netns, netip.AddrPortFrom(m.outside.v6, 53), map[string]string{"www.example.": "192.0.2.6"})
	serveNames(t, nil, netip.AddrPortFrom(own, 53), map[string]string{"server.example.": m.server.v4.String()})
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "nameserver %s\nnameserver %s\n", own, m.outside.v4), 0o644); err != nil {
		t.Fatal(err)
	}
	m.istiod.Set(&workload.Service{Name: "shop", Namespace: "demo", Hostname: "shop.demo.svc.cluster.local", Addresses: []*workload.NetworkAddress{{Address: []byte{10, 96, 0, 1}}},
		Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}})
	m.describe(m.client, nil)
	capturePod(t, m.client.Namespace)
	captureNames(t, m.client.Namespace)
	cfg := m.config(m.client)
	cfg.DNS.Capture, cfg.DNS.ResolvConf = true, conf
	m.client.node = startNode(t, cfg)
	m.client.node.enrolWith(m.client, resolver)
	m.client.node.waitReady()
	return m
}

// enrolWith is enrol by an agent that knows the pod's resolv.conf.
func (n *node) enrolWith(p *testPod, resolver *zds.Resolver) {
	n.t.Helper()
	file := p.File()
	defer file.Close()
	if text := n.agent.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Add{Add: &zds.AddWorkload{
		Uid: p.name + "-uid", WorkloadInfo: &zds.WorkloadInfo{Name: p.name, Namespace: "demo", ServiceAccount: p.name, Resolver: resolver},
	}}}, file); text != "" {
		n.t.Fatalf("enrol %s: %s\n%s", p.name, text, n.log)
	}
	n.agent.send(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}}, nil)
}

func TestPodsNamesAreAnswered(t *testing.T) {
	m := nameMesh(t, nil)
	for _, protocol := range []string{"udp", "tcp"} {
		for _, server := range []netip.Addr{m.outside.v4, m.outside.v6} {
			for host, want := range map[string]string{
				"shop.demo.svc.cluster.local.": "[10.96.0.1]", "shop.demo.": "[10.96.0.1]", "www.example.": "[192.0.2.1]", "missing.example.": "no such host",
			} {
				if got := m.client.resolve(t, protocol, server, host); got != want {
					t.Errorf("%s by %s from %v is %s, want %s", host, protocol, server, got, want)
				}
			}
		}
	}
	if m.client.node.metric("istio_dns_requests_total", `request_query_type="A"`, `request_protocol="tcp"`, `source_canonical_service="client"`) == 0 ||
		m.client.node.metric("istio_dns_upstream_requests_total") == 0 {
		t.Error("questions aren't counted")
	}
	m.client.node.waitLog("dns request complete", `pod="demo/client"`, "shop.demo.svc.cluster.local.")

	m.client.node.agent.del(m.client)
	if got := m.client.resolve(t, "tcp", m.outside.v4, "shop.demo."); !strings.Contains(got, "refused") {
		t.Errorf("without the pod's proxy: %s", got)
	}
}

func TestPodsOwnResolverIsHonoured(t *testing.T) {
	m := nameMesh(t, &zds.Resolver{Nameservers: []string{"fd91::3"}, Searches: []string{"corp.example"}, Ndots: 1})
	for host, want := range map[string]string{
		"www.example.": "[192.0.2.6]", "shop.demo.svc.cluster.local.corp.example.": "[10.96.0.1]", "shop.demo.": "no such host",
	} {
		if got := m.client.resolve(t, "udp", m.outside.v4, host); got != want {
			t.Errorf("%s is %s, want %s", host, got, want)
		}
	}
}

func TestProxyWithoutDNSCaptureOpensNoPort(t *testing.T) {
	m := newMesh(t)
	m.up(m.client)
	conn, err := m.client.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:15053"), socket.DialConfig{Mark: socket.Mark})
	if err == nil {
		conn.Close()
		t.Error("port 15053 is open")
	}
}

// An endpoint that has only a name is found by ztunnel's own name servers.
func TestEndpointsNamesAreResolved(t *testing.T) {
	m := nameMesh(t, nil)
	m.server.serve(t, 8080)
	m.client.Neighbour("eth0", netip.MustParsePrefix("10.96.0.1/32"))
	m.istiod.Set(&workload.Workload{Uid: "external", Name: "external", Namespace: "demo", Hostname: "server.example", CanonicalName: "external",
		Services: map[string]*workload.PortList{"demo/shop.demo.svc.cluster.local": {Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}}}}})
	m.sync()
	m.client.node.waitWorkload("external")
	if got := m.client.resolve(t, "udp", m.outside.v4, "shop.demo."); got != "[10.96.0.1]" {
		t.Errorf("the service is at %s", got)
	}
	seen, conn, err := m.client.call(netip.MustParseAddrPort("10.96.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	if shown := m.client.node.shownOutbound("client"); len(shown) != 1 || shown[0] != (shownConnection{"10.96.0.1:80", "10.91.0.2:8080", "TCP"}) {
		t.Errorf("the page of connections shows %+v", shown)
	}
	conn.Close()
	if seen != m.client.v4.String() {
		t.Errorf("the app sees %s", seen)
	}
	if n := m.client.node.metric("istio_on_demand_dns_total", `hostname="server.example"`, `source_canonical_service="client"`, `source_cluster="Kubernetes"`); n != 1 {
		t.Errorf("counted %v times", n)
	}
}

func TestOldAndNewProxyShareThePodsNames(t *testing.T) {
	m := nameMesh(t, nil)
	old := m.client.node
	cfg := m.config(m.client)
	cfg.DNS = config.DNS{Capture: true, Listen: cfg.DNS.Listen, Domain: "cluster.local", ResolvConf: filepath.Join(t.TempDir(), "none")}
	m.client.node = startNode(t, cfg)
	m.client.node.enrol(m.client)
	m.client.node.waitReady()
	old.drain.Start("replaced")
	for range 50 {
		if got := m.client.resolve(t, "udp", m.outside.v4, "shop.demo."); got != "[10.96.0.1]" {
			t.Errorf("while the old one drains: %s", got)
		}
	}
	if err := old.wait(); err != nil {
		t.Error(err)
	}
	if got := m.client.resolve(t, "udp", m.outside.v4, "shop.demo."); got != "[10.96.0.1]" {
		t.Errorf("after the old one has gone: %s", got)
	}
}
