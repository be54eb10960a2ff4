package daemon

import (
	"testing"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// An endpoint that couldn't be reached is shunned for seconds, but not once somebody has got an answer there.
func TestAnEndpointThatIsBackIsChosenAgain(t *testing.T) {
	for name, protocol := range map[string]workload.AppProtocol{"by a request": httpPort, "by a connection": workload.AppProtocol_TCP} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			m.serve(serverHost+1, echo("other"))
			resources := m.service("pair", workload.AppProtocol_TCP, 8080, serverHost, serverHost+1)
			alone := m.service("alone", protocol, 8080)
			resources[1].(*workload.Workload).Services["shop/alone.shop"] = &workload.PortList{Ports: alone[0].(*workload.Service).Ports}
			m.know(append(resources, alone...)...)
			caller := m.caller("shop", "client")
			if conn, err := m.through(caller, "alone"); err == nil { // to requests it is told by an answer
				if got := status(t, conn); got != 503 {
					t.Fatalf("without a server the answer is %d", got)
				}
				conn.Close()
			}
			m.serve(serverHost, echo("back"))
			conn, err := m.through(caller, "alone")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := status(t, conn); got != 200 {
				t.Fatalf("with a server the answer is %d", got)
			}
			for range 30 { // in less than the time for which it was shunned
				c := m.browser(caller)
				resp, _ := fetch(t, c, "http://pair/")
				c.CloseIdleConnections()
				if resp.Header.Get("X-Server") == "back" {
					return
				}
			}
			t.Error("of 30 connections none went to it, all to the other")
		})
	}
}
