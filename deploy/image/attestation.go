package image

import (
	"encoding/json"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// spdx is what in-toto calls a list in SPDX.
const spdx = "https://spdx.dev/Document"

// statement is in-toto's, version 0.1: what is said of which content.
type statement struct {
	Type      string          `json:"_type"`
	Predicate string          `json:"predicateType"`
	Subject   []subject       `json:"subject"`
	Said      json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// attestation is the list of one platform as BuildKit attaches it: an image of no platform in the same index, which is copied with the image
// and which engines never run.
func (v variant) attestation(name string) (a mutate.IndexAddendum, err error) {
	of, err := v.Digest()
	if err != nil {
		return a, err
	}
	text, err := json.Marshal(statement{
		Type: "https://in-toto.io/Statement/v0.1", Predicate: spdx, Said: v.list,
		Subject: []subject{{Name: name, Digest: map[string]string{of.Algorithm: of.Hex}}},
	})
	if err != nil {
		return a, err
	}
	made, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), mutate.Addendum{
		Layer: static.NewLayer(text, "application/vnd.in-toto+json"), Annotations: map[string]string{"in-toto.io/predicate-type": spdx},
	})
	if err != nil {
		return a, err
	}
	file, err := made.ConfigFile()
	if err != nil {
		return a, err
	}
	nowhere := v1.Platform{OS: "unknown", Architecture: "unknown"}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.History = nowhere.OS, nowhere.Architecture, nil
	if made, err = mutate.ConfigFile(made, file); err != nil {
		return a, err
	}
	return mutate.IndexAddendum{Add: made, Descriptor: v1.Descriptor{Platform: &nowhere, Annotations: map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of.String(),
	}}}, nil
}
