package main

import (
	"maps"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1/util"
)

// namespace is where a mesh is installed unless somebody wants it elsewhere.
const namespace = "istio-system"

// kubernetes is the oldest one that charts are rendered for.
var kubernetes = common.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}

// render returns what a chart installs, in the order in which that can be done, and what it says to who has installed it.
func render(one *chart.Chart, values map[string]any) (manifests []release.Manifest, notes string, err error) {
	values = maps.Clone(values)
	if err := util.ProcessDependencies(one, values); err != nil {
		return nil, "", err
	}
	able := common.DefaultCapabilities.Copy()
	able.KubeVersion = kubernetes
	all, err := commonutil.ToRenderValues(one, values, common.ReleaseOptions{Name: one.Name(), Namespace: namespace, Revision: 1, IsInstall: true}, able)
	if err != nil {
		return nil, "", err
	}
	files, err := engine.Render(one, all)
	if err != nil {
		return nil, "", err
	}
	for name, text := range files {
		if path.Base(name) == "NOTES.txt" {
			if strings.HasPrefix(name, one.Name()+"/templates/") {
				notes = text
			}
			delete(files, name)
		}
	}
	_, manifests, err = release.SortManifests(files, able.APIVersions, release.InstallOrder)
	return manifests, notes, err
}

// heading begins a manifest for those who don't use Helm. The agent and ztunnel may do more than Pod Security Standards let
// pods do by themselves.
const heading = `# All of a Tulle mesh: kubectl apply --server-side -f FILE. It is made of the charts, with their values for evaluation.
apiVersion: v1
kind: Namespace
metadata:
  name: ` + namespace + `
  labels:
    pod-security.kubernetes.io/enforce: privileged
`

func allInOne(one *chart.Chart) (string, error) {
	manifests, _, err := render(one, nil)
	if err != nil {
		return "", err
	}
	return heading + text(manifests), nil
}

func text(manifests []release.Manifest) string {
	var out strings.Builder
	for _, one := range manifests {
		out.WriteString("---\n" + strings.TrimSpace(one.Content) + "\n")
	}
	return out.String()
}
