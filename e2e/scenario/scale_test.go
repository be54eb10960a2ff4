package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A mesh of 200 services over 60 pods, each of three, and as many endpoints outside of the cluster as make a thousand.
const (
	manyServices, groups, ofGroup = 200, 20, 3
	manyOutside                   = 1000 - groups*ofGroup
)

const group = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: g%[1]d, namespace: many}
spec:
  replicas: %[2]d
  selector: {matchLabels: {group: g%[1]d}}
  template:
    metadata: {labels: {group: g%[1]d}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: app, image: "docker.io/tulle-mesh/app:dev", imagePullPolicy: IfNotPresent, args: [serve]}
---
`

func manyObjects() (pods, rest string) {
	var all, more strings.Builder
	for i := range groups {
		fmt.Fprintf(&all, group, i, ofGroup)
	}
	for i := range manyServices {
		fmt.Fprintf(&more, "{apiVersion: v1, kind: Service, metadata: {name: s%d, namespace: many}, spec: {selector: {group: g%d}, ports: [{port: 80, targetPort: 8080}]}}\n---\n", i, i%groups)
	}
	for i := range manyOutside { // addresses for documentation: nobody has them
		fmt.Fprintf(&more, "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: w%d, namespace: many}, spec: {address: 198.51.%d.%d, labels: {app: outside}}}\n---\n", i, 100+i/250, 1+i%250)
	}
	return all.String(), more.String()
}

func TestTwoHundredServicesOverSixtyPods(t *testing.T) {
	with(t, "{apiVersion: v1, kind: Namespace, metadata: {name: many, labels: {istio.io/dataplane-mode: ambient}}}")
	pods, rest := manyObjects()
	began := time.Now()
	if err := apply(t.Context(), rest); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d services and %d entries were stored in %s", manyServices, manyOutside, time.Since(began).Round(time.Second/10))
	began = time.Now()
	if err := apply(t.Context(), pods); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all pods to be in the mesh, and known to both nodes", func(ctx context.Context) error {
		for _, node := range nodes[:2] {
			inMesh, outside, services, err := known(ctx, node)
			if err != nil {
				return err
			}
			if inMesh != groups*ofGroup || outside != manyOutside || services != manyServices {
				return fmt.Errorf("%s knows %d pods, %d entries and %d services", node, inMesh, outside, services)
			}
		}
		return nil
	})
	t.Logf("%d pods were started and in the mesh, and both nodes knew, after %s", groups*ofGroup, time.Since(began).Round(time.Second/10))
	tallied(t, nodes[0], groups, []string{`reporter="source"`, from("meshed", "client"), to("many", "default"), byTunnel}, func() {
		for i := range groups {
			url := fmt.Sprintf("http://s%d.many/", i+groups*(i%(manyServices/groups)))
			if answer, err := ask(t.Context(), "meshed", "client", url); err != nil || !strings.HasPrefix(answer, fmt.Sprintf("pod=g%d-", i)) {
				t.Errorf("%s: %q %v", url, answer, err)
			}
		}
	})
}

// known is what a node's ztunnel knows of the namespace many.
func known(ctx context.Context, node string) (inMesh, outside, services int, err error) {
	pod, err := ztunnelOf(ctx, node)
	if err != nil {
		return 0, 0, 0, err
	}
	text, err := through(ctx, system, "pod/"+pod, 15000, "/config_dump")
	if err != nil {
		return 0, 0, 0, err
	}
	var dump struct {
		Workloads []struct{ Namespace, Protocol string }
		Services  []struct{ Namespace string }
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		return 0, 0, 0, err
	}
	for _, w := range dump.Workloads {
		switch {
		case w.Namespace != "many":
		case w.Protocol == "HBONE":
			inMesh++
		default:
			outside++
		}
	}
	for _, s := range dump.Services {
		if s.Namespace == "many" {
			services++
		}
	}
	return inMesh, outside, services, nil
}
