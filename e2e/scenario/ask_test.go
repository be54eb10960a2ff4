package scenario

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cli/demo"
)

// apply gives objects to the cluster; FIRST and SECOND stand for its nodes.
func apply(ctx context.Context, text string) error {
	_, err := mesh.Kubectl(ctx, mesh.Filled(text), "apply", "--server-side", "-f", "-")
	return err
}

// with gives objects to the cluster for the time of a test.
func with(t *testing.T, text string) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := mesh.Kubectl(context.Background(), mesh.Filled(text), "delete", "--ignore-not-found", "--timeout=60s", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	if err := apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return mesh.Kubectl(ctx, "", args...)
}

// must is kubectl that fails the test.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(context.WithoutCancel(t.Context()), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ask requests a URL from inside a pod.
func ask(ctx context.Context, namespace, pod, url string) (string, error) {
	return kubectl(ctx, "-n", namespace, "exec", pod, "--", "/app", "get", url)
}

// eventually repeats a check for at most a minute, also when the test is over and undoes what it did.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	if err := demo.AwaitWithin(context.WithoutCancel(t.Context()), time.Minute, what, check); err != nil {
		t.Fatal(err)
	}
}

// ztunnelOf is the name of a node's ztunnel: the one that stays, while it is replaced.
func ztunnelOf(ctx context.Context, node string) (string, error) {
	text, err := kubectl(ctx, "-n", system, "get", "pods", "-l", "app=ztunnel", "--field-selector=spec.nodeName="+node,
		"-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{"\n"}{end}`)
	if err != nil {
		return "", err
	}
	var stay []string
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 1 {
			stay = append(stay, fields[0])
		}
	}
	if len(stay) != 1 {
		return "", fmt.Errorf("ztunnels of node %s: %q, want one that stays", node, text)
	}
	return stay[0], nil
}

// metrics are those of a node's ztunnel.
func metrics(ctx context.Context, node string) (string, error) {
	pod, err := ztunnelOf(ctx, node)
	if err != nil {
		return "", err
	}
	return kubectl(ctx, "get", "--raw", "/api/v1/namespaces/"+system+"/pods/"+pod+":15020/proxy/metrics")
}

// opened counts the connections, in the metrics of a node's ztunnel, that have all of some labels.
func opened(ctx context.Context, node string, labels ...string) (total int, err error) {
	all, err := connections(ctx, node)
	for series, count := range all {
		if hasAll(series, labels) {
			total += count
		}
	}
	return total, err
}

// connections counts those that a node's ztunnel has opened, by their labels.
func connections(ctx context.Context, node string) (map[string]int, error) {
	text, err := metrics(ctx, node)
	if err != nil {
		return nil, err
	}
	all := map[string]int{}
	for line := range strings.Lines(text) {
		series, isOpened := strings.CutPrefix(line, "istio_tcp_connections_opened_total{")
		if !isOpened {
			continue
		}
		series, number, _ := strings.Cut(series, "} ")
		var count int
		if _, err := fmt.Sscan(number, &count); err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		all[series] += count
	}
	return all, nil
}

func hasAll(series string, labels []string) bool {
	for _, label := range labels {
		if !strings.Contains(series, label) {
			return false
		}
	}
	return true
}

// requests is how many counted makes.
const requests = 3

// counted makes requests, and waits until a node's ztunnel has counted as many more connections with the labels.
func counted(t *testing.T, namespace, pod, url, node string, labels ...string) {
	t.Helper()
	tallied(t, node, requests, labels, func() {
		for range requests {
			if answer, err := ask(t.Context(), namespace, pod, url); err != nil || !strings.HasPrefix(answer, "pod=") {
				t.Fatalf("%s/%s asks %s: %q %v", namespace, pod, url, answer, err)
			}
		}
	})
}

// tallied does something, and waits until a node's ztunnel has counted so many more connections with the labels.
func tallied(t *testing.T, node string, want int, labels []string, do func()) {
	t.Helper()
	before, err := connections(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	do()
	eventually(t, "ztunnel's metrics", func(ctx context.Context) error {
		after, err := connections(ctx, node)
		if err != nil {
			return err
		}
		var counted int
		var others []string
		for series, count := range after {
			switch more := count - before[series]; {
			case hasAll(series, labels):
				counted += more
			case more > 0:
				others = append(others, fmt.Sprintf("%d with %s", more, series))
			}
		}
		if counted != want {
			return fmt.Errorf("ztunnel on %s has counted %d connections with %q, want %d; and of others: %s", node, counted, labels, want, strings.Join(others, "; "))
		}
		return nil
	})
}

// from, to and what follows are labels of ztunnel's metrics.
func from(namespace, account string) string {
	return fmt.Sprintf(`source_principal="spiffe://cluster.local/ns/%s/sa/%s"`, namespace, account)
}

func to(namespace, account string) string {
	return fmt.Sprintf(`destination_principal="spiffe://cluster.local/ns/%s/sa/%s"`, namespace, account)
}

const (
	byTunnel   = `connection_security_policy="mutual_tls"`
	inPlain    = `connection_security_policy="unknown"`
	fromNobody = `source_principal="unknown"`
)

// refused waits until a pod gets no answer from a URL.
func refused(t *testing.T, namespace, pod, url string) {
	t.Helper()
	eventually(t, namespace+"/"+pod+" to be refused by "+url, func(ctx context.Context) error {
		if answer, err := ask(ctx, namespace, pod, url); err == nil {
			return fmt.Errorf("it is answered %q", answer)
		}
		return nil
	})
}

// outside requests an address from where the nodes are, without a pod.
func outside(ctx context.Context, addr, path string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = mesh.Do(func() error { conn, err = (&net.Dialer{}).DialContext(ctx, network, addr); return err })
			return conn, err
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", addr, answer.Status, text)
	}
	return string(text), err
}

// onNode runs a script on a node, from 1, with its words as arguments.
func onNode(ctx context.Context, node int, script string, words ...string) (string, error) {
	cmd, err := mesh.OnNode(ctx, node, append([]string{"sh", "-c", script, "sh"}, words...)...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s on node %d: %w: %s", script, node, err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// ownNodes skips a test that does something to the nodes themselves.
func ownNodes(t *testing.T) {
	t.Helper()
	if mesh.Given() {
		t.Skip("the nodes of a cluster that was given aren't ours")
	}
}
