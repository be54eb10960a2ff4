// Package suite runs Gateway API's conformance suite, with one demand more: that a waypoint has seen the requests of each test.
package suite

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

func TestConformance(t *testing.T) {
	for i, test := range tests.ConformanceTests {
		requests := test.Test
		tests.ConformanceTests[i].Test = func(t *testing.T, s *suite.ConformanceTestSuite) {
			before := seen(t, s.Clientset)
			t.Cleanup(func() { mustHaveSeen(t, s, before) }) // after its parallel parts
			requests(t, s)
		}
	}
	conformance.RunConformance(t)
}

// counting is how long a waypoint may take to count a request that is answered.
const counting = 5 * time.Second

// mustHaveSeen fails a test of whose requests the waypoint hasn't counted as many as the suite takes for a proof.
func mustHaveSeen(t *testing.T, s *suite.ConformanceTestSuite, before int) {
	want := before + s.TimeoutConfig.RequiredConsecutiveSuccesses
	deadline := time.Now().Add(counting)
	now := seen(t, s.Clientset)
	for now < want && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
		now = seen(t, s.Clientset)
	}
	if now < want {
		t.Errorf("the waypoint has counted %d requests of this test, want %d at least", now-before, want-before)
	}
	t.Logf("%d requests went through the waypoint", now-before)
}

// seen is how many requests the waypoint has counted.
func seen(t *testing.T, client kubernetes.Interface) (total int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pods := client.CoreV1().Pods(suite.MeshNamespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "gateway.networking.k8s.io/gateway-name"})
	if err != nil || len(list.Items) == 0 {
		t.Fatalf("%d waypoints in %s: %v", len(list.Items), suite.MeshNamespace, err)
	}
	for _, pod := range list.Items {
		text, err := pods.ProxyGet("http", pod.Name, "15020", "/metrics", nil).DoRaw(ctx)
		if err != nil {
			t.Fatalf("metrics of waypoint %s: %v", pod.Name, err)
		}
		count, err := requests(text)
		if err != nil {
			t.Fatalf("metrics of waypoint %s: %v", pod.Name, err)
		}
		total += count
	}
	return total
}

// requests adds up istio_requests_total as the waypoint reports it.
func requests(metrics []byte) (total int, err error) {
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	for lines.Scan() {
		series, value, _ := strings.Cut(lines.Text(), "} ")
		if !strings.HasPrefix(series, "istio_requests_total{") || !strings.Contains(series, `reporter="waypoint"`) {
			continue
		}
		count, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		total += int(count)
	}
	return total, lines.Err()
}
