package l7

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

const (
	fromClient = `source_principal="spiffe://cluster.local/ns/shop/sa/client"`
	toServer   = `destination_principal="spiffe://cluster.local/ns/shop/sa/server"`
	ofTheEcho  = `destination_service="echo.shop.svc.cluster.local"`
	proven     = `connection_security_policy="mutual_tls"`
)

// Both ways from and to the waypoint are tunnels, also where nothing else would be taken.
func TestMTLS(t *testing.T) {
	with(t, peerAuthentication("{mtls: {mode: STRICT}}"))
	plain.gets(t, 0, "http://echo.shop/")
	before := counted(t, "waypoint", "istio_requests_total", proven, fromClient, toServer)
	client.through(t, "waypoint", "http://echo.shop/")
	passed(t, "waypoint", "istio_requests_total", before+1, proven, fromClient, toServer)
}

func TestL7Telemetry(t *testing.T) {
	ok := []string{fromClient, toServer, ofTheEcho, proven, `response_code="200"`, `request_protocol="http"`, `source_workload="client"`, `destination_service_name="echo"`, `destination_service_namespace="shop"`}
	before := counted(t, "waypoint", "istio_requests_total", ok...)
	client.through(t, "waypoint", "http://echo.shop/", "--count=5")
	passed(t, "waypoint", "istio_requests_total", before+5, ok...)
	for _, metric := range []string{"istio_request_duration_milliseconds_count", "istio_request_bytes_count", "istio_response_bytes_count"} {
		passed(t, "waypoint", metric, before+5, ok...)
	}
	messages := counted(t, "waypoint", "istio_response_messages_total", ofTheEcho)
	client.through(t, "waypoint", "grpc://echo.shop:7070", "--count=3")
	passed(t, "waypoint", "istio_response_messages_total", messages+3, ofTheEcho, `request_protocol="grpc"`)
	passed(t, "waypoint", "istio_request_messages_total", 3, ofTheEcho, `request_protocol="grpc"`)
}

// To the server's ztunnel it is the waypoint that connects.
func TestL4Telemetry(t *testing.T) {
	client.through(t, "waypoint", "http://echo.shop/", "--count=10")
	pods := must(t, "-n", "istio-system", "get", "pods", "-l", "app=ztunnel", "-o", "jsonpath={.items[*].metadata.name}")
	for metric, labels := range map[string][]string{
		"istio_tcp_connections_opened_total": {`reporter="destination"`, `source_principal="spiffe://cluster.local/ns/shop/sa/waypoint"`, toServer, proven},
		"istio_tcp_sent_bytes_total":         {`reporter="source"`, fromClient, `destination_principal="spiffe://cluster.local/ns/shop/sa/waypoint"`, ofTheEcho, proven},
	} {
		eventually(t, metric, func(context.Context) error {
			sum := 0.0
			for _, pod := range strings.Fields(pods) {
				sum += metricOf(t, "istio-system", pod, metric, labels...)
			}
			if sum == 0 {
				return fmt.Errorf("no ztunnel has counted %s with %q", metric, labels)
			}
			return nil
		})
	}
}

// Metrics of ztunnel are scraped through a tunnel by a client of the mesh.
func TestSecureMetrics(t *testing.T) {
	ip := must(t, "-n", "istio-system", "get", "pods", "-l", "app=ztunnel", "--field-selector=spec.nodeName="+mesh.Nodes()[1], "-o", "jsonpath={.items[0].status.podIP}")
	if answer := client.gets(t, 200, "http://"+ip+":15020/metrics"); !strings.Contains(answer.text, "istio_build") {
		t.Errorf("answered %.300s", answer.text)
	}
}
