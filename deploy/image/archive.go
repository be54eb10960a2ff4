package image

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Write makes a file that `ctr image import`, `docker load`, `podman load`, `kind load image-archive` and tools for OCI layouts
// take. What was in its place stays there until all of it is written.
//
// An engine that knows no platforms, as docker's did for long, finds the first one by the image's name, and each other by the
// name with its architecture: …/ztunnel:v1.0.0-arm64.
func Write(path string, i Image) error {
	files, err := archive(i)
	if err != nil {
		return err
	}
	content, err := pack(files)
	if err != nil {
		return err
	}
	unfinished, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(unfinished.Name())
	_, err = unfinished.Write(content)
	if closed := unfinished.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Chmod(unfinished.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(unfinished.Name(), path)
	}
	return err
}

// archive lays an image out in files, by the OCI Image Layout Specification, with docker's list beside it.
func archive(i Image) ([]File, error) {
	variants, err := i.variants()
	if err != nil {
		return nil, err
	}
	b := blobs{}
	var forDocker tarball.Manifest
	var platforms v1.ImageIndex = empty.Index
	for n, one := range variants {
		listed, err := b.image(one)
		if err != nil {
			return nil, err
		}
		listed.RepoTags = []string{i.Name}
		if n > 0 {
			listed.RepoTags = []string{i.Name + "-" + one.platform.Architecture + one.platform.Variant}
		}
		forDocker = append(forDocker, listed)
		platforms = mutate.AppendManifests(platforms, mutate.IndexAddendum{Add: one.Image, Descriptor: v1.Descriptor{Platform: &one.platform}})
		if len(one.list) == 0 {
			continue
		}
		attested, err := one.attestation(i.Name)
		if err != nil {
			return nil, err
		}
		if _, err := b.image(attested.Add.(v1.Image)); err != nil {
			return nil, err
		}
		platforms = mutate.AppendManifests(platforms, attested)
	}
	if err := b.raw(platforms); err != nil {
		return nil, err
	}
	// containerd and docker call the image by the first annotation, others by the second.
	names := map[string]string{"io.containerd.image.name": i.Name, "org.opencontainers.image.ref.name": i.Name}
	top, err := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: platforms, Descriptor: v1.Descriptor{Annotations: names}}).RawManifest()
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(forDocker)
	if err != nil {
		return nil, err
	}
	files := []File{
		{Path: "/oci-layout", Mode: 0o644, Content: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Path: "/index.json", Mode: 0o644, Content: top},
		{Path: "/manifest.json", Mode: 0o644, Content: list},
	}
	for _, blob := range slices.Sorted(maps.Keys(b)) {
		files = append(files, File{Path: "/" + blob, Mode: 0o644, Content: b[blob]})
	}
	return files, nil
}

// blobs are the contents that are named by their hashes, by their place in an archive.
type blobs map[string][]byte

func place(hash v1.Hash) string { return "blobs/" + hash.Algorithm + "/" + hash.Hex }

// image adds an image, and returns what docker's list says of it.
func (b blobs) image(one v1.Image) (listed tarball.Descriptor, err error) {
	layers, err := one.Layers()
	if err != nil {
		return listed, err
	}
	for _, layer := range layers {
		hash, err := layer.Digest()
		if err != nil {
			return listed, err
		}
		reader, err := layer.Compressed()
		if err != nil {
			return listed, err
		}
		if b[place(hash)], err = io.ReadAll(reader); err != nil {
			return listed, err
		}
		listed.Layers = append(listed.Layers, place(hash))
	}
	hash, err := one.ConfigName()
	if err != nil {
		return listed, err
	}
	if b[place(hash)], err = one.RawConfigFile(); err != nil {
		return listed, err
	}
	listed.Config = place(hash)
	return listed, b.raw(one)
}

// raw adds the manifest of an image, or the index of several.
func (b blobs) raw(manifest interface {
	Digest() (v1.Hash, error)
	RawManifest() ([]byte, error)
}) error {
	hash, err := manifest.Digest()
	if err != nil {
		return err
	}
	b[place(hash)], err = manifest.RawManifest()
	return err
}
