package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tulle-mesh/tulle/deploy/image"
	"github.com/tulle-mesh/tulle/deploy/sbom"
)

// hub is where the images are.
const hub = "docker.io/tulle-mesh"

const bin = "/usr/local/bin/"

// component is what one image has.
type component struct {
	name, title string
	user        string
	programs    []program // the first one is run
}

// program is a binary, and the name that `go build` gives it.
type program struct{ name, built string }

// all are the images. ztunnel and the node agent enter pods' network namespaces, for which they need capabilities, and
// Kubernetes gives those to root only.
var all = []component{
	{name: "istiod-lite", title: "control plane of a Tulle mesh", user: "1337:1337", programs: []program{{"istiod-lite", "istiod-lite"}}},
	{name: "ztunnel", title: "node proxy of a Tulle mesh", user: "0:1337", programs: []program{{"ztunnel", "ztunnel"}}},
	{name: "waypoint", title: "waypoint of a Tulle mesh", user: "1337:1337", programs: []program{{"waypoint", "waypoint"}}},
	{name: "cni-plugin", title: "node agent and CNI plugin of a Tulle mesh", user: "0:0", programs: []program{{"tulle-cni-agent", "node-agent"}, {"tulle-cni", "cni-plugin"}}},
	{name: "bookinfo-like", title: "sample application for a Tulle mesh", user: "1337:1337", programs: []program{{"bookinfo-like", "bookinfo-like"}}},
}

// write makes all images with lists of what they are made of, and beside each the list as a file. The programs are in folders such as
// built/linux-arm64, as `go build` names them.
func write(built, to, version string, architectures []string) error {
	for _, c := range all {
		made, list, err := c.image(built, version, architectures)
		if err != nil {
			return err
		}
		if err := image.Write(filepath.Join(to, c.name+".tar"), made); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, c.name+".spdx.json"), list, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c component) image(built, version string, architectures []string) (made image.Image, list []byte, err error) {
	made = image.Image{
		Name: hub + "/" + c.name + ":" + version, User: c.user, Entrypoint: []string{bin + c.programs[0].name},
		Labels: map[string]string{
			"org.opencontainers.image.title":    c.title,
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source":   "https://github.com/tulle-mesh/tulle",
		},
		Files: map[string][]image.File{}, Lists: map[string][]byte{},
	}
	var all []sbom.Program
	for _, architecture := range architectures {
		platform := "linux/" + architecture
		var programs []sbom.Program
		for _, p := range c.programs {
			content, err := os.ReadFile(filepath.Join(built, "linux-"+architecture, p.built))
			if err != nil {
				return made, nil, fmt.Errorf("program of image %s: %w", c.name, err)
			}
			made.Files[platform] = append(made.Files[platform], image.File{Path: bin + p.name, Mode: 0o755, Content: content})
			programs = append(programs, sbom.Program{Path: bin + p.name, Platform: platform, Content: content})
		}
		if made.Lists[platform], err = sbom.Of(made.Name, version, programs); err != nil {
			return made, nil, err
		}
		all = append(all, programs...)
	}
	list, err = sbom.Of(made.Name, version, all)
	return made, list, err
}
