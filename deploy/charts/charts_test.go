package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/util"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite golden files, schemas and READMEs")

var once = sync.OnceValues(func() (map[string]*chart.Chart, error) { return source{".", "v1.2.3"}.all(context.Background()) })

func load(t *testing.T) map[string]*chart.Chart {
	t.Helper()
	charts, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return charts
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return values
}

// golden compares a text with a file, or rewrites that.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, err := os.ReadFile(file); err != nil || got != string(want) {
		t.Errorf("%s differs (%v): go test ./deploy/charts -update, and review it. It would be\n%s", file, err, got)
	}
}

// A case is testdata/CHART/NAME.values.yaml; what it installs is beside it.
func TestWhatIsInstalled(t *testing.T) {
	charts := load(t)
	files, err := filepath.Glob("testdata/*/*.values.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, file := range files {
		values, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(filepath.Dir(file))
		manifests, notes, err := render(charts[name], parse(t, string(values)))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if !strings.Contains(notes, "kubectl") && !strings.Contains(notes, "helm install") {
			t.Errorf("%s: the notes don't say what to do next:\n%s", name, notes)
		}
		golden(t, strings.TrimSuffix(file, ".values.yaml")+".golden.yaml", text(manifests))
	}
}

func TestHelmsLinterFindsNothing(t *testing.T) {
	dir := t.TempDir()
	for name, one := range load(t) {
		if err := util.SaveDir(one, dir); err != nil {
			t.Fatal(err)
		}
		values := map[string]any{"global": map[string]any{"profile": "production"}}
		for _, message := range lint.RunAll(filepath.Join(dir, name), values, namespace, lint.WithKubeVersion(&kubernetes)).Messages {
			if message.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, message)
			}
		}
	}
}

func TestSchemasAndTablesAreThoseOfTheValues(t *testing.T) {
	for _, name := range append([]string{whole}, parts...) {
		text, err := os.ReadFile(filepath.Join(name, "values.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		values, schema, err := documented(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var within []string
		if name == whole {
			within = parts
		}
		file, err := schemaFile(schema, within)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join(name, "values.schema.json"), string(file))
		page, err := os.ReadFile(filepath.Join(name, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		written, err := readme(string(page), values)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		golden(t, filepath.Join(name, "README.md"), written)
	}
}

func TestMistakesInValuesAreRefused(t *testing.T) {
	charts := load(t)
	for _, test := range []struct{ chart, values, want string }{
		{"ztunnel", "resorces: {}", "resorces"},
		{"ztunnel", "profile: demo", "profile"},
		{"ztunnel", "terminationGracePeriodSeconds: 30s", "terminationGracePeriodSeconds"},
		{"ztunnel", "dnsCapture: maybe", "dnsCapture"},
		{"cni-plugin", "engine: tc", "engine"},
		{"cni-plugin", "global: {platform: openshift}", "platform"},
		{"istiod-lite", "autoscaleMin: 0", "autoscaleMin"},
		{"istiod-lite", "podDisruptionBudget: {minAvailable: 1}", "minAvailable"},
		{"base", "base: {enableCRDs: true}", "enableCRDs"},
		{"tulle", "ztunnel: {profil: production}", "profil"},
		{"tulle", "pilot: {}", "pilot"},
	} {
		if _, _, err := render(charts[test.chart], parse(t, test.values)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s with %s: error %v", test.chart, test.values, err)
		}
	}
}

// objects renders a chart and takes what it installs apart.
func objects(t *testing.T, one *chart.Chart, values string) (all []map[string]any) {
	t.Helper()
	manifests, _, err := render(one, parse(t, values))
	if err != nil {
		t.Fatal(err)
	}
	for _, manifest := range manifests {
		all = append(all, parse(t, manifest.Content))
	}
	return all
}

// at follows a path of keys through an object; list entries go by number.
func at(object any, path ...any) any {
	for _, key := range path {
		switch key := key.(type) {
		case string:
			object = object.(map[string]any)[key]
		case int:
			object = object.([]any)[key]
		}
	}
	return object
}

func named(t *testing.T, all []map[string]any, kind, name string) map[string]any {
	t.Helper()
	for _, one := range all {
		if one["kind"] == kind && at(one, "metadata", "name") == name {
			return one
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

func TestWhatIsSetGoesBeforePlatformAndProfile(t *testing.T) {
	charts := load(t)
	for _, test := range []struct {
		values string
		memory any
		folder string
	}{
		{"", "48Mi", "/opt/cni/bin"},
		{"profile: ambient", "48Mi", "/opt/cni/bin"},
		{"global: {profile: production}", "100Mi", "/opt/cni/bin"},
		{"{profile: evaluation, global: {profile: production}}", "48Mi", "/opt/cni/bin"},
		{"global: {platform: k3s}", "48Mi", "/var/lib/rancher/k3s/data/cni"},
		{"{profile: production, global: {platform: gke}, resources: {requests: {cpu: 1}}}", "100Mi", "/home/kubernetes/bin"},
		{"{global: {platform: gke}, cniBinDir: /bin, resources: {requests: {memory: 1Gi}}}", "1Gi", "/bin"},
	} {
		pod := at(named(t, objects(t, charts["cni-plugin"], test.values), "DaemonSet", "istio-cni-node"), "spec", "template", "spec")
		if memory := at(pod, "containers", 0, "resources", "requests", "memory"); memory != test.memory {
			t.Errorf("%s: %v of memory, want %v", test.values, memory, test.memory)
		}
		if folder := at(pod, "volumes", 1, "hostPath", "path"); folder != test.folder {
			t.Errorf("%s: plugins in %v, want %s", test.values, folder, test.folder)
		}
	}
	if all := objects(t, charts["istiod-lite"], "{profile: production, autoscaleEnabled: false, replicaCount: 3}"); at(named(t, all, "Deployment", "istiod"), "spec", "replicas") != 3.0 {
		t.Error("a profile goes before what is set to false")
	}
}

// The programs are tested with the rights of deploy/rbac; charts must give them the very same.
func TestRightsAreThoseThatProgramsAreTestedWith(t *testing.T) {
	charts := load(t)
	for name, file := range map[string]string{"istiod-lite": "istiod-lite.yaml", "cni-plugin": "tulle-cni-agent.yaml"} {
		manifest, err := os.ReadFile(filepath.Join("../rbac", file))
		if err != nil {
			t.Fatal(err)
		}
		tested := map[string]map[string]any{}
		for _, document := range strings.Split(string(manifest), "\n---\n") {
			object := parse(t, document)
			tested[fmt.Sprint(object["kind"], at(object, "metadata", "name"))] = object
		}
		for _, object := range objects(t, charts[name], "") {
			key := fmt.Sprint(object["kind"], at(object, "metadata", "name"))
			if _, ok := tested[key]; !ok && !strings.Contains(key, "Role") {
				continue
			}
			delete(object["metadata"].(map[string]any), "labels")
			if !reflect.DeepEqual(object, tested[key]) {
				t.Errorf("%s of chart %s is %v, in deploy/rbac/%s it is %v", key, name, object, file, tested[key])
			}
			delete(tested, key)
		}
		if len(tested) > 0 {
			t.Errorf("chart %s lacks %v", name, slices.Collect(maps.Keys(tested)))
		}
	}
}

// Only those who enter pods' networks are root, and nobody is more than that takes.
func TestContainersMayDoLittle(t *testing.T) {
	want := map[string]string{
		"istiod":         "user 1337, adds <nil>",
		"ztunnel":        "user 0, adds [NET_ADMIN SYS_ADMIN NET_BIND_SERVICE]",
		"istio-cni-node": "user 0, adds [NET_ADMIN SYS_ADMIN SYS_PTRACE DAC_OVERRIDE]",
	}
	for _, object := range objects(t, load(t)[whole], "") {
		if object["kind"] != "Deployment" && object["kind"] != "DaemonSet" {
			continue
		}
		name := at(object, "metadata", "name").(string)
		pod := at(object, "spec", "template", "spec").(map[string]any)
		for _, container := range pod["containers"].([]any) {
			is := at(container, "securityContext").(map[string]any)
			user := is["runAsUser"]
			if user == nil {
				user = at(pod, "securityContext", "runAsUser")
			}
			if got := fmt.Sprintf("user %v, adds %v", user, at(is, "capabilities", "add")); got != want[name] {
				t.Errorf("%s: %s, want %s", name, got, want[name])
			}
			if is["readOnlyRootFilesystem"] != true || is["privileged"] == true || fmt.Sprint(at(is, "capabilities", "drop")) != "[ALL]" {
				t.Errorf("%s: %v", name, is)
			}
		}
		if at(pod, "securityContext", "seccompProfile", "type") != "RuntimeDefault" || pod["hostNetwork"] != nil || pod["hostPID"] != nil {
			t.Errorf("%s: %v", name, pod)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}

func TestTheManifestForAllIsWhole(t *testing.T) {
	text, err := allInOne(load(t)[whole])
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, document := range strings.Split(text, "\n---\n") {
		object := parse(t, document)
		kind, _ := object["kind"].(string)
		id := fmt.Sprint(kind, " ", at(object, "metadata", "namespace"), "/", at(object, "metadata", "name"))
		count[kind]++
		if count[id]++; count[id] > 1 {
			t.Errorf("%s is there twice", id)
		}
		if kind == "CustomResourceDefinition" && at(object, "metadata", "annotations", "helm.sh/resource-policy") != "keep" {
			t.Errorf("%s would go with its chart, and all objects of its kind with it", id)
		}
	}
	for kind, least := range map[string]int{"Namespace": 1, "CustomResourceDefinition": 15 + 8, "Deployment": 1, "DaemonSet": 2, "ValidatingWebhookConfiguration": 2} {
		if count[kind] < least {
			t.Errorf("%d objects of kind %s, want %d", count[kind], kind, least)
		}
	}
}

// Helm keeps a release in a Secret, which has a megabyte at most.
func TestReleasesFitIntoASecret(t *testing.T) {
	for name, one := range load(t) {
		manifests, notes, err := render(one, nil)
		if err != nil {
			t.Fatal(err)
		}
		type part struct{ Chart, Files, Templates, Values any }
		var within []part
		for _, c := range append(one.Dependencies(), one) {
			within = append(within, part{c.Metadata, c.Files, c.Templates, c.Values})
		}
		plain, err := json.Marshal(map[string]any{"chart": within, "manifest": text(manifests), "notes": notes})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		zipper, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
		if err := cmp.Or(err, func() error { _, err := zipper.Write(plain); return err }(), zipper.Close()); err != nil {
			t.Fatal(err)
		}
		if size := base64.StdEncoding.EncodedLen(out.Len()); size > 1<<20 {
			t.Errorf("a release of chart %s has %d bytes", name, size)
		} else {
			t.Logf("%s: %d bytes", name, size)
		}
	}
}

func TestMakeChartsMakesTheSameTwice(t *testing.T) {
	one, other := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, other} {
		if err := (source{".", "v1.2.3-4-g5444448"}).write(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"base-1.2.3-4-g5444448.tgz", "cni-plugin-1.2.3-4-g5444448.tgz", "istiod-lite-1.2.3-4-g5444448.tgz", "tulle-1.2.3-4-g5444448.tgz", "tulle.yaml", "waypoint-1.2.3-4-g5444448.tgz", "ztunnel-1.2.3-4-g5444448.tgz"}
	entries, err := os.ReadDir(one)
	if err != nil || len(entries) != len(names) {
		t.Errorf("%d files, %v, want %v", len(entries), err, names)
	}
	for _, name := range names {
		a, err := os.ReadFile(filepath.Join(one, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if b, err := os.ReadFile(filepath.Join(other, name)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
}

func TestVersionsOfChartsAreSemantic(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3": "1.2.3", "1.2.3": "1.2.3", "v1.2.3-4-g5444448-dirty": "1.2.3-4-g5444448-dirty", "5444448-dirty": "0.0.0-g5444448-dirty", "unknown": "0.0.0-gunknown",
	} {
		if got := chartVersion(version); got != want {
			t.Errorf("%s gives %s, want %s", version, got, want)
		}
	}
}
