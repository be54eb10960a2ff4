package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

const sandwich = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: gate
  namespace: app
  annotations: {ambient.istio.io/waypoint-inbound-binding: PROXY/15088}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: gate.app.svc.cluster.local}]}
`

// A proxy that knows nothing of the mesh is a waypoint between two ztunnels: the one before it tells by a PROXY header who asks whom, and the one behind
// it proves who the proxy is.
func TestSimpleHTTPSandwich(t *testing.T) {
	spec := waypointSpec("sandwich", filepath.Join(filepath.Dir(programs.Tulle), "sandwich"), gate)
	for i := range spec.Pods {
		if spec.Pods[i].Name == gate {
			delete(spec.Pods[i].Labels, demo.Label) // it is in the mesh
		}
	}
	c := start(t, spec)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, step := range []func() error{
		func() error { return c.Apply("gateway", sandwich) },
		func() error { return c.LabelNamespace("app", demo.Label, demo.Ambient) },
		func() error { return c.LabelNamespace("app", "istio.io/use-waypoint", gate) },
		func() error { return c.AwaitMeshed(ctx, true, client, near, far, gate) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, c)
		}
	})
	told := make(chan string, 100)
	serve(t, c, gate, 15088, func(conn *net.TCPConn) { filling(t, c, conn, told) })
	to := vip(c, far, 0, 80)
	eventually(t, "an answer through the proxy", func(ctx context.Context) error {
		text, err := c.Get(ctx, client, "http://"+to.String()+"/")
		if err == nil && !strings.Contains(text, "by way of the filling") {
			err = fmt.Errorf("%q", text)
		}
		return err
	})
	want := fmt.Sprintf("%s to %s spiffe://cluster.local/ns/app/sa/client", c.PodAddrs(client)[0], to)
	if got := <-told; got != want {
		t.Errorf("the proxy is told %q, want %q", got, want)
	}
	const gateID, clientID, farID = "spiffe://cluster.local/ns/app/sa/gate", "spiffe://cluster.local/ns/app/sa/client", "spiffe://cluster.local/ns/app/sa/far"
	counted(t, c, "node1", "istio_tcp_connections_opened_total", `reporter="source"`, `source_principal="`+clientID+`"`, `destination_principal="`+gateID+`"`)
	counted(t, c, "node2", "istio_tcp_connections_opened_total", `reporter="destination"`, `source_principal="`+clientID+`"`, `destination_principal="`+gateID+`"`)
	counted(t, c, "node2", "istio_tcp_connections_opened_total", `reporter="destination"`, `source_principal="`+gateID+`"`, `destination_principal="`+farID+`"`)
}

// filling passes a request that comes with a PROXY header (version 2) on to the far server, and says so in the answer.
func filling(t *testing.T, c *demo.Cluster, in *net.TCPConn, told chan<- string) {
	_ = in.SetDeadline(time.Now().Add(slow))
	reader := bufio.NewReader(in)
	head := make([]byte, 16+12)
	if _, err := io.ReadFull(reader, head); err != nil || string(head[:14]) != "\r\n\r\n\x00\r\nQUIT\n\x21\x11" {
		t.Errorf("header %q, %v", head, err)
		return
	}
	rest := make([]byte, max(3, int(head[14])<<8|int(head[15])-12)) // of one field: its kind, its length, the client's identity
	if _, err := io.ReadFull(reader, rest); err != nil {
		t.Error(err)
		return
	}
	addr := func(from int) netip.Addr { return netip.AddrFrom4([4]byte(head[from : from+4])) }
	to := netip.AddrPortFrom(addr(20), uint16(head[26])<<8|uint16(head[27]))
	told <- fmt.Sprintf("%s to %s %s", addr(16), to, strings.TrimLeft(string(rest[3:]), "\x00"))
	request, err := http.ReadRequest(reader)
	if err != nil {
		t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), slow)
	defer cancel()
	text, err := c.Get(ctx, gate, "http://"+podAddr(c, far, 0, web).String()+request.URL.RequestURI())
	if err != nil {
		text = err.Error()
	} else {
		text += ", by way of the filling"
	}
	fmt.Fprintf(in, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
}
