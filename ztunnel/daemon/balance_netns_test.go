package daemon

import (
	"net"
	"net/netip"
	"testing"
)

// The connections to a service go to all its endpoints, and while some stay open the others get more.
func TestServiceSharesConnectionsAmongItsEndpoints(t *testing.T) {
	m := newMesh(t)
	m.istiod.Set(dualWeb(nil))
	m.up(m.client, m.server, m.outside)
	for _, p := range []*testPod{m.server, m.outside} {
		m.describe(p, endpointOf(webHost))
		p.serve(t, 8080)
	}
	m.sync()
	m.routeServices()
	count := func(p *testPod) float64 {
		return m.client.node.metric("istio_tcp_connections_opened_total", `reporter="source"`, `destination_workload="`+p.name+`"`, `destination_service="`+webHost+`"`, `connection_security_policy="mutual_tls"`)
	}
	const calls = 40
	for range calls { // what is over makes nobody busy
		mustCall(t, m.client, netip.AddrPortFrom(m.server.v4, 8080)).Close()
	}
	m.client.node.waitAccounts()
	var open []net.Conn
	for i := range calls {
		to := serviceV4
		if i%2 == 1 {
			to = serviceV6
		}
		open = append(open, mustCall(t, m.client, netip.AddrPortFrom(to, 80)))
	}
	server, outside := count(m.server), count(m.outside)
	if server+outside != calls || server < calls/4 || outside < calls/4 {
		t.Errorf("of %d connections the endpoints got %v and %v", calls, server, outside)
	}
	// An endpoint that goes away gets no more; the control plane says so.
	m.describe(m.outside, nil)
	m.sync()
	for range calls / 2 {
		mustCall(t, m.client, netip.AddrPortFrom(serviceV4, 80)).Close()
	}
	if got := count(m.outside); got != outside {
		t.Errorf("%v connections to an endpoint that is none any more", got-outside)
	}
	for _, conn := range open {
		alive(t, conn.(*net.TCPConn)) // wherever it goes
	}
}
