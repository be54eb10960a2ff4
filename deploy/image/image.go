// Package image writes the images that containers run from, without a container engine.
package image

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is what a container runs, for each platform that it is there for. The same Image always gives the same bytes.
type Image struct {
	// Name has a registry and a tag, such as docker.io/tulle-mesh/ztunnel:v1.0.0.
	Name string
	// User is who runs it, by number, with a group or without: 1337:1337. Empty is root.
	User       string
	Entrypoint []string
	Labels     map[string]string
	// Files are all that is in it, by platform, such as linux/arm64.
	Files map[string][]File
	// Lists say what the image is made of on each platform, in SPDX. They are beside it wherever it goes, as attestations of BuildKit's form.
	Lists map[string][]byte
}

// variant is what an image is on one platform.
type variant struct {
	platform v1.Platform
	v1.Image
	list []byte
}

// variants makes the image of each platform, in the order of the platforms' names.
func (i Image) variants() ([]variant, error) {
	if _, err := name.NewTag(i.Name, name.StrictValidation); err != nil {
		return nil, fmt.Errorf("%w: want a registry, a repository and a tag, such as docker.io/tulle-mesh/ztunnel:v1.0.0", err)
	}
	if len(i.Files) == 0 {
		return nil, fmt.Errorf("image %s has files for no platform", i.Name)
	}
	var all []variant
	for _, key := range slices.Sorted(maps.Keys(i.Files)) {
		platform, err := v1.ParsePlatform(key)
		if err == nil && (platform.OS == "" || platform.Architecture == "") {
			err = fmt.Errorf("platform %q: want an operating system and an architecture, such as linux/arm64", key)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.Name, err)
		}
		made, err := i.variant(*platform, i.Files[key])
		if err != nil {
			return nil, fmt.Errorf("image %s for %s: %w", i.Name, key, err)
		}
		all = append(all, variant{*platform, made, i.Lists[key]})
	}
	return all, nil
}

func (i Image) variant(platform v1.Platform, files []File) (v1.Image, error) {
	content, err := pack(files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(9), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	made, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return nil, err
	}
	file, err := made.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant = platform.OS, platform.Architecture, platform.Variant
	file.History = nil // it would only say that there is one layer
	file.Config = v1.Config{User: i.User, Entrypoint: i.Entrypoint, Labels: i.Labels, WorkingDir: "/"}
	return mutate.ConfigFile(made, file)
}
