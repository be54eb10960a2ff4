package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

// startServers returns the port of each flag.
func startServers(t *testing.T, flags ...string) map[string]int {
	t.Helper()
	ports := map[string]int{}
	for _, name := range flags {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		port := l.Addr().(*net.TCPAddr).Port
		args := []string{fmt.Sprintf("--%s=%d", name, port), "--crt=/cert.crt", "--key=/cert.key"}
		if name == "tls" {
			args = append(args, fmt.Sprintf("--port=%d", port))
		}
		servers, err := parseServers(args)
		if err != nil || len(servers) != 1 {
			t.Fatalf("%q: %d servers, %v", args, len(servers), err)
		}
		go servers[0].serve(l)
		ports[name] = port
	}
	return ports
}

func ask(t *testing.T, args ...string) string {
	t.Helper()
	var out strings.Builder
	if err := runClient(t.Context(), args, &out); err != nil {
		t.Fatalf("client %q: %v", args, err)
	}
	return out.String()
}

func TestTheClientSaysWhatTheSuiteReads(t *testing.T) {
	ports := startServers(t, "port", "tls", "tcp", "grpc")
	pod, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	of := func(scheme, flag, path string) string {
		return fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, ports[flag], path)
	}
	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"HTTP", []string{of("http", "port", "/a?b=c"), "--method=PUT", "-H", "X-One:1", "-H", "X-One:2"}, []string{
			"[0] StatusCode=200", "[0] ResponseHeader=Content-Type:text/plain; charset=utf-8",
			"[0 body] URL=/a?b=c", "[0 body] Method=PUT", "[0 body] Proto=HTTP/1.1", "[0 body] IP=127.0.0.1",
			"[0 body] RequestHeader=X-One:1", "[0 body] RequestHeader=X-One:2", fmt.Sprint("[0 body] ServicePort=", ports["port"])}},
		{"another Host", []string{of("http", "port", "/"), "-H", "Host:echo-v2"}, []string{"[0 body] Host=echo-v2"}},
		{"HTTPS", []string{of("https", "tls", "/")}, []string{"[0] StatusCode=200", "[0 body] Method=GET"}},
		{"TCP", []string{of("tcp", "tcp", "")}, []string{"[0] StatusCode=200", "[0 body] Proto=TCP"}},
		{"gRPC", []string{of("grpc", "grpc", ""), "-H", "X-One:1"}, []string{
			"[0] StatusCode=200", "[0] ResponseHeader=content-type:application/grpc", "[0 body] RequestHeader=x-one:1",
			fmt.Sprint("[0 body] Host=127.0.0.1:", ports["grpc"])}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ask(t, test.args...)
			for _, line := range append(test.want, "[0 body] Hostname="+pod) {
				if !strings.Contains("\n"+got, "\n"+line+"\n") {
					t.Errorf("no line %q in\n%s", line, got)
				}
			}
		})
	}
}

// The suite parts replies at blank lines.
func TestABatchIsPartedByBlankLines(t *testing.T) {
	ports := startServers(t, "port")
	got := ask(t, fmt.Sprintf("http://127.0.0.1:%d/", ports["port"]), "--count=3")
	parts := strings.Split(strings.TrimSpace(got), "\n\n")
	if len(parts) != 3 {
		t.Fatalf("%d replies, want 3:\n%s", len(parts), got)
	}
	for i, part := range parts {
		if !strings.HasPrefix(part, fmt.Sprintf("[%d] Url=", i)) || strings.Count(part, "Hostname=") != 1 {
			t.Errorf("reply %d is\n%s", i, part)
		}
	}
}

func TestRequestsThatFailAreNoReplies(t *testing.T) {
	for _, args := range [][]string{{}, {"ftp://a/"}, {"http://127.0.0.1:1/"}, {"grpc://127.0.0.1:1"}, {"tcp://127.0.0.1:1"}, {"http://a/", "b"}, {"http://a/", "-H", "b"}} {
		var out strings.Builder
		if err := runClient(context.Background(), args, &out); err == nil || out.Len() > 0 {
			t.Errorf("client %q: %v, says %q", args, err, out.String())
		}
	}
}
