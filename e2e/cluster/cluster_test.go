package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

func TestPodsTalkAcrossNodesByTheirOwnAddresses(t *testing.T) {
	c := get(t)
	pods := c.pods(t)
	for _, from := range pods {
		for _, to := range pods {
			answer, err := c.ask(t.Context(), from, "http://"+to.addr+":8080/")
			if want := fmt.Sprintf("pod=%s from=%s:", to.name, from.addr); err != nil || !strings.HasPrefix(answer, want) {
				t.Errorf("%s on %s asks %s on %s: %q %v, want %q", from.name, from.node, to.name, to.node, answer, err, want)
			}
		}
	}
}

func TestAServiceIsReachedByNameAndByItsAddressFromEveryNode(t *testing.T) {
	c := get(t)
	pods := c.pods(t)
	vip, err := c.Kubectl(t.Context(), "", "-n", namespace, "get", "service", "app", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range pods {
		for _, host := range []string{"app", "app." + namespace + ".svc.cluster.local", vip} {
			answer, err := c.ask(t.Context(), from, "http://"+host+"/")
			if err != nil || !strings.HasPrefix(answer, "pod=") {
				t.Errorf("%s on %s asks %s: %q %v", from.name, from.node, host, answer, err)
			}
		}
	}
}

func TestAServiceHasPodsOfAllNodes(t *testing.T) {
	c := get(t)
	pods := c.pods(t)
	missing := map[string]bool{}
	for _, p := range pods {
		missing[p.name] = true
	}
	eventually(t, "an answer of each pod", func(ctx context.Context) error {
		answer, err := c.ask(ctx, pods[0], "http://app/")
		if err != nil {
			return err
		}
		delete(missing, strings.TrimPrefix(strings.Fields(answer)[0], "pod="))
		if len(missing) > 0 {
			return fmt.Errorf("none of %v", missing)
		}
		return nil
	})
}

func TestLogsTellWhatAPodSays(t *testing.T) {
	c := get(t)
	pods := c.pods(t)
	to := pods[len(pods)-1]
	if answer, err := c.ask(t.Context(), pods[0], "http://"+to.addr+":8080/remember"); err != nil {
		t.Fatal(answer, err)
	}
	eventually(t, "the pod's log", func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "", "-n", namespace, "logs", to.name)
		if err == nil && !strings.Contains(out, "GET /remember from "+pods[0].addr) {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
}

func TestANodeThatCrashesComesBackWithItsPods(t *testing.T) {
	c := get(t)
	if c.Given() {
		t.Skip("the nodes of a cluster that was given aren't ours to stop")
	}
	const node = 3
	var first, crashing pod
	for _, p := range c.pods(t) {
		switch p.node {
		case "n1":
			first = p
		case "n3":
			crashing = p
		}
	}
	if err := c.Stop(node); err != nil {
		t.Fatal(err)
	}
	if answer, err := c.ask(t.Context(), first, "http://"+crashing.addr+":8080/"); err == nil {
		t.Errorf("a pod of a node that is off answers %q", answer)
	}
	if _, err := c.OnNode(t.Context(), node, "true"); err == nil {
		t.Error("a program can be started on a node that is off")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Boot(ctx, node); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod to be back", func(ctx context.Context) error {
		addr, err := c.Kubectl(ctx, "", "-n", namespace, "get", "pod", crashing.name, "-o", "jsonpath={.status.podIP}")
		if err != nil {
			return err
		}
		answer, err := c.ask(ctx, first, "http://"+addr+":8080/")
		if err == nil && !strings.HasPrefix(answer, "pod="+crashing.name+" ") {
			err = errors.New(answer)
		}
		return err
	})
}

// The second cluster also has to find and remove what the first has left, whose caller is killed.
func TestTwoClustersRunAtOnceAndNothingIsLeftOfOneWhoseCallerIsKilled(t *testing.T) {
	c := get(t)
	if c.Given() {
		t.Skip("this is about clusters of this machine")
	}
	killed := fmt.Sprintf("t%dkilled", os.Getpid())
	caller := exec.Command(os.Args[0])
	caller.Env = append(os.Environ(), forever+"="+killed, "KUBECONFIG=")
	caller.Stderr = os.Stderr
	out, err := caller.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	caller.Process.Kill()
	caller.Wait()
	if line != "up\n" {
		t.Fatalf("the caller says %q", line)
	}
	if len(traces(killed)) == 0 {
		t.Fatal("a cluster that is up leaves no traces: this test couldn't find any")
	}

	second, err := cluster.Up(t.Context(), cluster.Config{Number: 1, Nodes: 1, Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := second.Down(); err != nil {
			t.Error(err)
		}
	}()
	if left := traces(killed); len(left) > 0 {
		t.Errorf("left of a cluster whose caller was killed:\n  %s", strings.Join(left, "\n  "))
	}
	other := &site{Cluster: second}
	if err := other.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*site{c, other} {
		pods := s.pods(t)
		if answer, err := s.ask(t.Context(), pods[0], "http://app/"); err != nil || !strings.HasPrefix(answer, "pod=app-") {
			t.Errorf("%q %v", answer, err)
		}
	}
	if theirs, ours := other.pods(t)[0], c.pods(t)[0]; !strings.HasPrefix(theirs.addr, "10.201.") || strings.HasPrefix(ours.addr, "10.201.") {
		t.Errorf("pods of two clusters have the addresses %s and %s, of one network", ours.addr, theirs.addr)
	}
}
