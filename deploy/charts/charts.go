package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/chart/v2/util"
)

// parts are the charts of which the chart named whole consists.
var parts = []string{"base", "istiod-lite", "cni-plugin", "ztunnel", "waypoint"}

const whole = "tulle"

// source is where charts are made from: this folder.
type source struct {
	dir     string
	version string // of images, such as v1.2.3
}

// all loads every chart, each as it is packaged.
func (s source) all(ctx context.Context) (map[string]*chart.Chart, error) {
	charts := map[string]*chart.Chart{}
	for _, name := range append([]string{whole}, parts...) {
		one, err := s.load(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", name, err)
		}
		charts[name] = one
	}
	for _, name := range parts {
		// Another one, for a chart belongs to one that it is part of.
		part, err := s.load(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", name, err)
		}
		charts[whole].AddDependency(part)
	}
	for _, dependency := range charts[whole].Metadata.Dependencies {
		dependency.Version = charts[whole].Metadata.Version
	}
	return charts, nil
}

func (s source) load(ctx context.Context, name string) (*chart.Chart, error) {
	one, err := loader.LoadDir(filepath.Join(s.dir, name))
	if err != nil {
		return nil, err
	}
	one.Metadata.Version, one.Metadata.AppVersion = chartVersion(s.version), s.version
	if name == "base" {
		for _, of := range definitions {
			text, err := of.read(ctx, filepath.Join(s.dir, "../../istiod-lite"))
			if err != nil {
				return nil, err
			}
			one.Files = append(one.Files, &common.File{Name: of.as, Data: []byte(text)})
		}
	}
	age(one)
	return one, nil
}

// age makes all files equally old, so that the same source gives the same package.
func age(c *chart.Chart) {
	when := time.Unix(0, 0)
	c.ModTime, c.SchemaModTime = when, when
	for _, files := range [][]*common.File{c.Raw, c.Templates, c.Files} {
		for _, file := range files {
			file.ModTime = when
		}
	}
}

var semantic = regexp.MustCompile(`^v?(\d+\.\d+\.\d+(?:[-+].+)?)$`)

// chartVersion makes a version of images one that Helm takes: a commit is a version before the first.
func chartVersion(version string) string {
	if found := semantic.FindStringSubmatch(version); found != nil {
		return found[1]
	}
	return "0.0.0-g" + version
}

// library has the definitions of the objects of which it has the Go types.
type library struct {
	module, files string
	as            string // file of the chart base
}

// definitions are those that the chart base has. Their versions are those that istiod-lite is built with.
var definitions = []library{
	{"istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml", "definitions/istio.yaml"},
	{"sigs.k8s.io/gateway-api", "config/crd/standard/*.yaml", "definitions/gateway-api.yaml"},
}

// keep is what Helm leaves in the cluster, with all objects of its kind, when the chart goes.
const keep = "helm.sh/resource-policy: keep"

// read returns the definitions as one text.
func (l library) read(ctx context.Context, user string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", l.module)
	cmd.Dir, cmd.Env = user, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	var answer struct{ Dir, Error string }
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	if err != nil || answer.Dir == "" {
		return "", fmt.Errorf("go mod download %s: %w %s", l.module, err, answer.Error)
	}
	files, err := filepath.Glob(filepath.Join(answer.Dir, l.files))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("module %s has no files %s (%w)", l.module, l.files, err)
	}
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		for _, one := range regexp.MustCompile(`(?m)^---.*\n`).Split(string(text), -1) {
			if !strings.Contains(one, "\nkind: CustomResourceDefinition\n") {
				continue
			}
			if one, err = kept(one); err != nil {
				return "", fmt.Errorf("%s: %w", filepath.Base(file), err)
			}
			all = append(all, strings.TrimSpace(one)+"\n")
		}
	}
	return strings.Join(all, "---\n"), nil
}

// kept adds to a definition that it stays, unless it says so.
func kept(definition string) (string, error) {
	const place = "\n  annotations:\n"
	if strings.Contains(definition, keep) {
		return definition, nil
	}
	if !strings.Contains(definition, place) {
		return "", errors.New("a definition has no annotations")
	}
	return strings.Replace(definition, place, place+"    "+keep+"\n", 1), nil
}

// write makes the package of every chart, and the manifest of all objects of the whole.
func (s source) write(ctx context.Context, to string) error {
	charts, err := s.all(ctx)
	if err != nil {
		return err
	}
	for _, one := range charts {
		if _, err := util.Save(one, to); err != nil {
			return fmt.Errorf("chart %s: %w", one.Name(), err)
		}
	}
	text, err := allInOne(charts[whole])
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, whole+".yaml"), []byte(text), 0o644)
}
