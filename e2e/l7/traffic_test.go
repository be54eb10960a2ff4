package l7

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Everything that a client may speak reaches a service through its waypoint, which looks into what is HTTP.
func TestServices(t *testing.T) {
	for _, url := range []string{"http://echo.shop/", "http://echo.shop:81/", "grpc://echo.shop:7070"} {
		for _, from := range []pod{client, distant} {
			if answer := from.through(t, "waypoint", url); !answer.looked() && !strings.HasPrefix(url, "grpc") {
				t.Errorf("%v asks %s: the server was told no id of the request\n%s", from, url, answer.text)
			}
		}
	}
	for _, url := range []string{"https://echo.shop/", "tcp://echo.shop:9090"} {
		before := counted(t, "waypoint", "istio_tcp_connections_opened_total")
		if answer := client.gets(t, 200, url); answer.looked() {
			t.Errorf("%s was looked into\n%s", url, answer.text)
		}
		passed(t, "waypoint", "istio_tcp_connections_opened_total", before+1)
	}
	client.around(t, "http://direct.shop/") // has no waypoint
	plain.around(t, "http://echo.shop/")    // isn't in the mesh
}

// A pod's own address has nothing to do with the waypoint of its services, but with its own.
func TestPodIP(t *testing.T) {
	ip := func(pod string) string {
		return must(t, "-n", "shop", "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
	}
	if answer := client.around(t, "http://"+ip("v1")+":8080/"); answer.hosts["v1"] != 1 {
		t.Errorf("answered by %v", answer.hosts)
	}
	if answer := client.through(t, "pods", "http://"+ip("addressed")+":8080/"); answer.hosts["addressed"] != 1 || !answer.looked() {
		t.Errorf("answered by %v\n%s", answer.hosts, answer.text)
	}
}

// Requests of one connection go to several servers.
func TestServerSideLB(t *testing.T) {
	if answer := client.through(t, "waypoint", "http://echo.shop/", "--count=40"); answer.hosts["v1"] < 4 || answer.hosts["v2"] < 4 {
		t.Errorf("40 requests are answered by %v", answer.hosts)
	}
}

const route = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules: `

func TestServerRouting(t *testing.T) {
	with(t, route+`
  - matches: [{headers: [{name: version, value: v2}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: greeting, value: hello}]}}]
    backendRefs: [{name: v2, port: 80}]
  - backendRefs: [{name: v1, port: 80}]
`)
	eventually(t, "the route", func(ctx context.Context) error {
		answer, err := client.ask(ctx, "http://echo.shop/", "--count=10")
		if err == nil && answer.hosts["v1"] != 10 {
			err = fmt.Errorf("answered by %v", answer.hosts)
		}
		return err
	})
	if answer := client.through(t, "waypoint", "http://echo.shop/", "--count=10", "-H", "version:v2"); answer.hosts["v2"] != 10 || !strings.Contains(answer.text, "RequestHeader=Greeting:hello") {
		t.Errorf("answered by %v\n%s", answer.hosts, answer.text)
	}
}

func TestTrafficSplit(t *testing.T) {
	for _, test := range []struct{ v1, v2, atLeast, atMost int }{{0, 100, 0, 0}, {50, 50, 20, 80}} {
		with(t, route+fmt.Sprintf(`[{backendRefs: [{name: v1, port: 80, weight: %d}, {name: v2, port: 80, weight: %d}]}]`, test.v1, test.v2))
		eventually(t, fmt.Sprintf("a split %d:%d", test.v1, test.v2), func(ctx context.Context) error {
			answer, err := client.ask(ctx, "http://echo.shop/", "--count=100")
			if n := answer.hosts["v1"]; err == nil && (n < test.atLeast || n > test.atMost || answer.hosts["v2"] != 100-n) {
				err = fmt.Errorf("answered by %v", answer.hosts)
			}
			return err
		})
	}
	client.through(t, "waypoint", "http://echo.shop/")
}

func TestInvalidBackend(t *testing.T) {
	before := counted(t, "waypoint", "istio_requests_total", `response_code="500"`)
	with(t, route+`[{backendRefs: [{name: nothing, port: 80}]}]`)
	client.gets(t, 500, "http://echo.shop/")
	passed(t, "waypoint", "istio_requests_total", before+1, `response_code="500"`)
}

func TestTCPRoute(t *testing.T) {
	with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: tcp, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: echo, port: 9090}], rules: [{backendRefs: [{name: v2, port: 9090}]}]}
`)
	onlyV2(t, "tcp://echo.shop:9090")
}

func TestTLSRoute(t *testing.T) {
	with(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tls, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: echo, port: 443}], hostnames: [echo.shop], rules: [{backendRefs: [{name: v2, port: 443}]}]}
`)
	onlyV2(t, "https://echo.shop/")
}

// onlyV2 waits until one version alone answers what isn't looked into, by way of the waypoint.
func onlyV2(t *testing.T, url string) {
	t.Helper()
	before := counted(t, "waypoint", "istio_tcp_connections_opened_total", `destination_workload="v2"`)
	eventually(t, "the route", func(ctx context.Context) error {
		for range 6 { // each by a connection of its own
			if answer, err := client.ask(ctx, url); err != nil || answer.hosts["v2"] != 1 {
				return fmt.Errorf("answered by %v: %w", answer.hosts, err)
			}
		}
		return nil
	})
	passed(t, "waypoint", "istio_tcp_connections_opened_total", before+6, `destination_workload="v2"`)
}

func TestWaypointDNS(t *testing.T) {
	for _, name := range []string{"echo", "echo.shop", "echo.shop.svc", "echo.shop.svc.cluster.local"} {
		client.through(t, "waypoint", "http://"+name+"/")
	}
	client.around(t, "http://direct/")
}

func TestCrossNamespaceWaypoint(t *testing.T) {
	for _, from := range []pod{client, distant} {
		if answer := from.through(t, "waypoint", "http://away.elsewhere/"); answer.hosts["away"] != 1 || !answer.looked() {
			t.Errorf("%v is answered by %v\n%s", from, answer.hosts, answer.text)
		}
	}
}

// What the mesh doesn't know is none of its business.
func TestOutboundPolicyAllowAny(t *testing.T) {
	node := must(t, "get", "node", mesh.Nodes()[1], "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	client.gets(t, 200, "http://"+node+":10256/healthz") // of its kube-proxy
}

func TestAPIServer(t *testing.T) {
	if answer := client.gets(t, 200, "https://kubernetes.default/version"); !strings.Contains(answer.text, "gitVersion") {
		t.Errorf("answered %s", answer.text)
	}
}

// A server is replaced while requests pass through its waypoint: none is lost.
func TestServiceRestart(t *testing.T) {
	with(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: restarted}}
  template:
    metadata: {labels: {app: restarted}}
    spec:
      containers:
      - name: app
        image: docker.io/tulle-mesh/echo:dev
        imagePullPolicy: IfNotPresent
        args: [server, --port=8080]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 5}}}
---
apiVersion: v1
kind: Service
metadata: {name: restarted, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec: {selector: {app: restarted}, ports: [{name: http, port: 80, targetPort: 8080}]}
`)
	must(t, "-n", "shop", "rollout", "status", "deployment/server", "--timeout=90s")
	client.through(t, "waypoint", "http://restarted/")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	asked, failed, stop := 0, error(nil), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil && failed == nil {
			select {
			case <-stop:
				return
			default:
			}
			answer, err := client.ask(ctx, "http://restarted/", "--count=200")
			for _, status := range answer.statuses {
				if status != 200 {
					err = fmt.Errorf("status %d\n%s", status, answer.text)
				}
			}
			asked, failed = asked+len(answer.statuses), err
		}
	}()
	must(t, "-n", "shop", "rollout", "restart", "deployment/server")
	must(t, "-n", "shop", "rollout", "status", "deployment/server", "--timeout=120s")
	close(stop)
	<-done
	t.Logf("%d requests while all pods were replaced", asked)
	if failed != nil || asked < 200 {
		t.Errorf("after %d requests: %v", asked, failed)
	}
}
