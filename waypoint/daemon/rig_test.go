package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/l7"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/drain"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/meshtest/byhand"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeistiod"
	"github.com/tulle-mesh/tulle/mesh/meshtest/testca"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/settings"
	"github.com/tulle-mesh/tulle/waypoint/config"
)

// patience is for things that take no time on an idle machine.
const patience = time.Minute

// addresses takes a net of addresses on loopback for a test, so that it can have fixed ports there: the kernel says whether another test, of
// this program or another, has it.
func addresses(t testing.TB) uint32 {
	t.Helper()
	for range 1000 {
		net24 := 256 + rand.Uint32N(250<<8)
		claim, err := net.Listen("tcp", netip.AddrPortFrom(addressIn(net24, 254), 1).String())
		if err == nil {
			t.Cleanup(func() { claim.Close() })
			return net24
		}
	}
	t.Fatal("no addresses on loopback are free")
	return 0
}

func addressIn(net24 uint32, host byte) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(net24 >> 8), byte(net24), host})
}

// mesh is a waypoint as it runs, a control plane that speaks the real protocols, servers, and clients that come through tunnels. All addresses
// are on loopback.
type mesh struct {
	t      testing.TB
	ca     *testca.CA
	istiod *fakeistiod.Server
	net    uint32 // the third byte of addresses
	drain  *drain.Drain
	ended  chan error
	log    *lines
}

// addr is one of the rig's addresses.
func (m *mesh) addr(host byte) netip.Addr {
	return addressIn(m.net, host)
}

// The hosts of a rig.
const (
	waypointHost = 1
	serverHost   = 10 // and those after it
)

func newMesh(t testing.TB, change ...func(*config.Config)) *mesh {
	t.Helper()
	m := &mesh{t: t, ca: testca.New(t, "cluster.local"), net: addresses(t), ended: make(chan error, 1), log: &lines{}}
	m.istiod = fakeistiod.New(t, m.ca)
	cfg := config.Config{
		Self:    config.Self{Name: "wp-1", Namespace: "shop", ServiceAccount: "wp", TrustDomain: "cluster.local"},
		Gateway: config.Gateway{Name: "wp", Class: "istio-waypoint"}, Identity: m.ca.Identity("shop", "wp"), ClusterID: "Kubernetes",
		Plane: settings.Plane{
			XDS: settings.ControlPlane{Address: m.istiod.Address(), RootCA: m.istiod.RootFile()},
			CA:  settings.ControlPlane{Address: m.istiod.Address(), RootCA: m.istiod.RootFile()}, Token: "shop:wp",
		},
		SecretTTL: time.Hour, DrainTimeout: 5 * time.Second, MaxConnectionAge: time.Hour, Workers: 1,
		Log:    config.Log{Levels: "info", Format: "plain"},
		Listen: config.Listen{Tunnels: m.at(15008), Admin: m.at(15000), Metrics: m.at(15020), Ready: m.at(15021), Stats: m.at(15090)},
	}
	for _, f := range change {
		f(&cfg)
	}
	m.istiod.Set(
		&workload.Service{Name: "wp", Namespace: "shop", Hostname: "wp.shop", Ports: []*workload.Port{{ServicePort: 15008, TargetPort: 15008}}},
		m.workload("wp-1", waypointHost, func(w *workload.Workload) {
			w.ServiceAccount, w.Services = "wp", map[string]*workload.PortList{"shop/wp.shop": {Ports: []*workload.Port{{ServicePort: 15008, TargetPort: 15008}}}}
		}))
	m.drain = drain.New(cfg.DrainTimeout)
	go func() { m.ended <- runUntil(m.drain, cfg, "test", m.log) }()
	t.Cleanup(m.stop)
	return m
}

func (m *mesh) at(port int) string {
	return netip.AddrPortFrom(m.addr(waypointHost), uint16(port)).String()
}

// stop ends the waypoint.
func (m *mesh) stop() {
	m.drain.Force("the test has ended")
	m.drain.Start("the test has ended")
	select {
	case err := <-m.ended:
		if err != nil {
			m.t.Error(err)
		}
	case <-time.After(patience):
		m.t.Error("the waypoint doesn't end")
	}
	if m.t.Failed() {
		m.t.Logf("log:\n%s", m.log.String())
	}
}

// workload is one of the rig's pods.
func (m *mesh) workload(name string, host byte, change func(*workload.Workload)) *workload.Workload {
	addr := m.addr(host).As4()
	w := &workload.Workload{
		Uid: "Kubernetes//Pod/shop/" + name, Name: name, Namespace: "shop", Addresses: [][]byte{addr[:]}, TrustDomain: "cluster.local", ServiceAccount: "default",
		WorkloadName: name, CanonicalName: name, CanonicalRevision: "v1", ClusterId: "Kubernetes", Node: "node1", Capacity: nil,
	}
	if change != nil {
		change(w)
	}
	return w
}

// service is one that is bound to the waypoint, with a virtual address that nobody has, and a pod for each of the hosts.
func (m *mesh) service(name string, protocol workload.AppProtocol, target uint32, hosts ...byte) []proto.Message {
	port := &workload.Port{ServicePort: 80, TargetPort: target, AppProtocol: protocol}
	vip := m.vip(name).As4()
	out := []proto.Message{&workload.Service{
		Name: name, Namespace: "shop", Hostname: name + ".shop", Ports: []*workload.Port{port}, Addresses: []*workload.NetworkAddress{{Address: vip[:]}},
		Waypoint: &workload.GatewayAddress{HboneMtlsPort: 15008, Destination: &workload.GatewayAddress_Hostname{
			Hostname: &workload.NamespacedHostname{Namespace: "shop", Hostname: "wp.shop"}}},
	}}
	for i, host := range hosts {
		out = append(out, m.workload(fmt.Sprintf("%s-%d", name, i), host, func(w *workload.Workload) {
			w.WorkloadName, w.CanonicalName = name, name
			w.Services = map[string]*workload.PortList{"shop/" + name + ".shop": {Ports: []*workload.Port{port}}}
		}))
	}
	return out
}

// vip is a service's virtual address.
func (m *mesh) vip(service string) netip.Addr {
	sum := byte(0)
	for _, c := range []byte(service) {
		sum = sum*31 + c
	}
	return netip.AddrFrom4([4]byte{10, 96, byte(m.net), sum})
}

// know has the waypoint told, and waits until it knows.
func (m *mesh) know(resources ...proto.Message) {
	m.t.Helper()
	m.istiod.Set(resources...)
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	if err := m.istiod.Sync(ctx, 1); err != nil {
		m.t.Fatal(err)
	}
	m.eventually("the waypoint to be ready", func() error {
		resp, err := http.Get("http://" + m.at(15021) + "/healthz/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			text, _ := io.ReadAll(resp.Body)
			return fmt.Errorf("%s", text)
		}
		conn, err := net.Dial("tcp", m.at(15008))
		if err == nil {
			conn.Close()
		}
		return err
	})
}

func (m *mesh) eventually(what string, check func() error) {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// caller is a client with an identity.
func (m *mesh) caller(namespace, account string) *byhand.Client {
	return m.proven(m.ca.Credential(m.ca.Identity(namespace, account)))
}

// proven is a client with a certificate.
func (m *mesh) proven(by *mtls.Credential) *byhand.Client {
	return byhand.New(m.t, by, func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	})
}

// through dials a service through the waypoint.
func (m *mesh) through(c *byhand.Client, service string) (net.Conn, error) {
	return c.Connect(m.t, m.identity(), netip.MustParseAddrPort(m.at(15008)), netip.AddrPortFrom(m.vip(service), 80).String())
}

func (m *mesh) identity() identity.Workload { return m.ca.Identity("shop", "wp") }

// browser makes requests to services through the waypoint: the host of a URL is the service's name.
func (m *mesh) browser(c *byhand.Client) *http.Client {
	transport := &http.Transport{
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			return m.through(c, host)
		},
		DisableCompression: true,
	}
	m.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// browser2 is browser with HTTP/2 by prior knowledge.
func (m *mesh) browser2(c *byhand.Client) *http.Client {
	b := m.browser(c)
	b.Transport.(*http.Transport).Protocols = new(http.Protocols)
	b.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	return b
}

// fetch makes a request and returns the status and the body.
func fetch(t *testing.T, c *http.Client, url string, change ...func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// load has each of the clients ask for a URL, one request after the other, until end is called. Each answer has to be 200; heard gets it.
func (m *mesh) load(url string, heard func(text string), clients ...*http.Client) (end func()) {
	m.t.Helper()
	var group sync.WaitGroup
	stop := make(chan struct{})
	ask := func(c *http.Client) bool {
		resp, err := c.Get(url)
		if err != nil {
			m.t.Error(err)
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || err != nil {
			m.t.Errorf("%d %s, %v", resp.StatusCode, text, err)
			return false
		}
		heard(string(text))
		return true
	}
	for _, c := range clients {
		group.Go(func() {
			for ask(c) {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	end = sync.OnceFunc(func() { close(stop); group.Wait() })
	m.t.Cleanup(end)
	return end
}

// serve runs an HTTP server at one of the rig's hosts, on port 8080.
func (m *mesh) serve(host byte, handler http.HandlerFunc, change ...func(*http.Server)) *http.Server {
	m.t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(m.addr(host), 8080).String())
	if err != nil {
		m.t.Fatal(err)
	}
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	for _, f := range change {
		f(server)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	m.t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	return server
}

// echo answers with what it was asked for and who it is.
func echo(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Server", name)
		fmt.Fprintf(w, "%s %s %s host=%s %s", name, r.Method, r.URL.RequestURI(), r.Host, body)
	}
}

// httpRoute is a route of service web, for all its ports, made of rules.
func httpRoute(name, service string, rules ...*l7.Rule) *l7.Resource {
	return &l7.Resource{
		Schema: 1, Origin: &l7.Origin{Kind: "HTTPRoute", Namespace: "shop", Name: name},
		Targets: []*l7.Target{{Of: &l7.Target_Service{Service: "shop/" + service + ".shop"}, Ports: []uint32{80}}},
		Kind:    &l7.Resource_Route{Route: &l7.Route{Protocol: l7.Route_HTTP, Precedence: name, Rules: rules}},
	}
}

// rule sends what begins with a prefix to services, each as often as the others.
func rule(prefix string, services ...string) *l7.Rule {
	r := &l7.Rule{Matches: []*l7.Match{{Rank: uint64(len(prefix)), Path: &l7.Path{Match: &l7.Path_Prefix{Prefix: prefix}}}}}
	for _, service := range services {
		r.Backends = append(r.Backends, &l7.Backend{Ref: &l7.BackendRef{Service: "shop/" + service + ".shop", Port: 80}, Weight: 1})
	}
	return r
}

// metric sums the samples of a metric with all of the words.
func (m *mesh) metric(name string, words ...string) (sum float64) {
	m.t.Helper()
	resp, err := http.Get("http://" + m.at(15090) + "/stats/prometheus")
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	scanner := bufio.NewScanner(resp.Body)
	scanner.Buffer(nil, 1<<20)
next:
	for scanner.Scan() {
		line := scanner.Text()
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err != nil {
			m.t.Fatalf("%s: %v", line, err)
		}
		sum += value
	}
	return sum
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
