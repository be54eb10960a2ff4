// Package sbom lists what an image is made of, by what the Go linker has written into its programs, as SPDX 2.3.
package sbom

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
)

// Program is one that an image has on one platform.
type Program struct {
	Path     string // in the image
	Platform string // such as linux/arm64
	Content  []byte
}

// ours begins the paths of our own modules. They have the image's version: the linker doesn't know it.
const ours = "github.com/tulle-mesh/tulle/"

// Of makes the list of an image, which is named with its tag. The same programs always give the same bytes.
func Of(image, version string, programs []Program) ([]byte, error) {
	whole := sha256.New()
	root := part{ID: "SPDXRef-image", Name: image, Version: version, Purpose: "CONTAINER"}
	d := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: image,
		// There has to be a time; the present one would make each list another.
		Created: creation{Created: "1970-01-01T00:00:00Z", Creators: []string{"Tool: tulle-deploy"}},
		Parts:   []part{root}, Relations: []relation{{"SPDXRef-DOCUMENT", "DESCRIBES", root.ID}},
	}
	for _, program := range programs {
		info, err := buildinfo.Read(bytes.NewReader(program.Content))
		if err != nil {
			return nil, fmt.Errorf("%s for %s: %w", program.Path, program.Platform, err)
		}
		hash := sha256.Sum256(program.Content)
		whole.Write(hash[:])
		one := part{
			Name: program.Path, Version: version, Purpose: "APPLICATION", Comment: program.Platform,
			Sums: []sum{{"SHA256", hex.EncodeToString(hash[:])}},
		}
		one.ID = id("program", program.Platform, program.Path)
		d.add(one, relation{root.ID, "CONTAINS", one.ID})
		for _, library := range libraries(info, version) {
			d.add(library, relation{one.ID, "DEPENDS_ON", library.ID})
		}
	}
	for i := range d.Parts {
		d.Parts[i].Location = "NOASSERTION" // SPDX's word for what isn't said
	}
	d.Namespace = fmt.Sprintf("https://%ssbom/%x", ours, whole.Sum(nil))
	out, err := json.MarshalIndent(d, "", "  ")
	return append(out, '\n'), err
}

// libraries are the modules that a program is made of, and Go itself.
func libraries(info *debug.BuildInfo, version string) []part {
	all := []part{library("std", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, module := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if module.Replace != nil && module.Replace.Version != "" {
			module = module.Replace
		}
		if strings.HasPrefix(module.Path, ours) {
			all = append(all, library(module.Path, version))
		} else {
			all = append(all, library(module.Path, module.Version))
		}
	}
	return all
}

func library(module, version string) part {
	name := module
	if module == "std" {
		name = "stdlib" // as package URLs call it
	}
	return part{
		ID: id("module", module, version), Name: module, Version: version, Purpose: "LIBRARY",
		Refs: []reference{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + name + "@" + version}},
	}
}

// id is one of SPDX's, which has letters, digits, dots and dashes.
func id(parts ...string) string {
	return "SPDXRef-" + strings.Map(func(r rune) rune {
		if r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, strings.Join(parts, "-"))
}

type document struct {
	Version   string     `json:"spdxVersion"`
	License   string     `json:"dataLicense"`
	ID        string     `json:"SPDXID"`
	Name      string     `json:"name"`
	Namespace string     `json:"documentNamespace"`
	Created   creation   `json:"creationInfo"`
	Parts     []part     `json:"packages"`
	Relations []relation `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type part struct {
	ID       string      `json:"SPDXID"`
	Name     string      `json:"name"`
	Version  string      `json:"versionInfo"`
	Purpose  string      `json:"primaryPackagePurpose"`
	Location string      `json:"downloadLocation"`
	Analyzed bool        `json:"filesAnalyzed"`
	Comment  string      `json:"comment,omitempty"`
	Sums     []sum       `json:"checksums,omitempty"`
	Refs     []reference `json:"externalRefs,omitempty"`
}

type sum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relation struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// add takes a part in once, however many others it belongs to.
func (d *document) add(one part, r relation) {
	if !slices.ContainsFunc(d.Parts, func(p part) bool { return p.ID == one.ID }) {
		d.Parts = append(d.Parts, one)
	}
	d.Relations = append(d.Relations, r)
}
