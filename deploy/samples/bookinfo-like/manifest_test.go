package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// object is what the test reads of a Service, an account or a Deployment.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Ports    []struct{ Port int }
		Selector any
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				ServiceAccountName string
				Containers         []struct {
					Args  []string
					Ports []struct{ ContainerPort int }
				}
			}
		}
	}
}

func TestTheManifestFitsTheProgram(t *testing.T) {
	text, err := os.ReadFile("kustomize/base/bookinfo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]object{}
	for _, document := range strings.Split(string(text), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		there[o.Kind+" "+o.Metadata.Name] = o
	}
	versions := map[string]string{"reviews": "v1 v2 v3"}
	for name, service := range services {
		if versions[name] == "" {
			versions[name] = "v1"
		}
		for version := range strings.FieldsSeq(versions[name]) {
			pod := there["Deployment "+name+"-"+version].Spec.Template
			if len(pod.Spec.Containers) != 1 || fmt.Sprint(pod.Spec.Containers[0].Args) != "["+name+"]" || pod.Metadata.Labels["app"] != name || pod.Metadata.Labels["version"] != version {
				t.Errorf("%s-%s runs %+v", name, version, pod)
				continue
			}
			if port := fmt.Sprintf(":%d", pod.Spec.Containers[0].Ports[0].ContainerPort); port != service.listen {
				t.Errorf("%s-%s has port %s, the program %s", name, version, port, service.listen)
			}
			if _, ok := there["ServiceAccount "+pod.Spec.ServiceAccountName]; !ok {
				t.Errorf("%s-%s has an account that isn't there", name, version)
			}
		}
		if ports := there["Service "+name].Spec.Ports; len(ports) != 1 || fmt.Sprintf(":%d", ports[0].Port) != service.listen {
			t.Errorf("service %s has ports %v, the program %s", name, ports, service.listen)
		}
	}
}
