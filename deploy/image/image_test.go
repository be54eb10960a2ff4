package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func echo() Image {
	on := func(program string) []File {
		return []File{
			{Path: "/usr/local/bin/echo", Mode: 0o755, Content: []byte(program)},
			{Path: "/bin", Mode: fs.ModeSymlink | 0o777, Content: []byte("usr/local/bin")},
			{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
			{Path: "/etc/echo.yaml", Mode: 0o644, Content: []byte("port: 80\n")},
		}
	}
	return Image{
		Name: "registry.example.com/test/echo:v1", User: "1337:1337", Entrypoint: []string{"/usr/local/bin/echo"},
		Labels: map[string]string{"org.opencontainers.image.version": "v1"},
		Files:  map[string][]File{"linux/arm64": on("arm"), "linux/amd64": on("amd")},
		Lists:  map[string][]byte{"linux/arm64": []byte(`{"spdxVersion":"SPDX-2.3","name":"arm"}`), "linux/amd64": []byte(`{"spdxVersion":"SPDX-2.3","name":"amd"}`)},
	}
}

const listing = `Lrwxrwxrwx 0:0 bin -> usr/local/bin
drwxr-xr-x 0:0 etc
-rw-r--r-- 0:0 etc/echo.yaml "port: 80\n"
dtrwxrwxrwx 0:0 tmp
drwxr-xr-x 0:0 usr
drwxr-xr-x 0:0 usr/local
drwxr-xr-x 0:0 usr/local/bin
-rwxr-xr-x 0:0 usr/local/bin/echo "%s"
`

func TestContainerdFindsTheImageOfEachPlatform(t *testing.T) {
	folder := unpacked(t, written(t, echo()))
	top, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	listed := manifests(t, top)
	if len(listed) != 1 || listed[0].Annotations["io.containerd.image.name"] != "registry.example.com/test/echo:v1" {
		t.Fatalf("the archive has %+v, want one image by its name", listed)
	}
	index, err := top.ImageIndex(listed[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, one := range manifests(t, index) {
		if one.Platform.OS == "unknown" {
			continue // says what another is made of
		}
		platforms = append(platforms, one.Platform.String())
		found, err := index.Image(one.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(found); err != nil {
			t.Error(err)
		}
		is(t, found, one.Platform.Architecture)
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
		t.Errorf("platforms %v, want %v", platforms, want)
	}
}

// By the annotations that BuildKit gives.
func TestWhatAnImageIsMadeOfIsFoundBesideIt(t *testing.T) {
	top, err := layout.ImageIndexFromPath(unpacked(t, written(t, echo())))
	if err != nil {
		t.Fatal(err)
	}
	index, err := top.ImageIndex(manifests(t, top)[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	images, lists := map[string]string{}, map[string]string{}
	for _, one := range manifests(t, index) {
		if one.Platform.OS != "unknown" {
			images[one.Digest.String()] = one.Platform.Architecture
			continue
		}
		found, err := index.Image(one.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := found.Layers()
		if err != nil || len(layers) != 1 || one.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
			t.Fatalf("%+v has %d layers (%v)", one, len(layers), err)
		}
		content, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		var said struct {
			PredicateType string
			Subject       []struct{ Digest map[string]string }
			Predicate     struct{ Name string }
		}
		if err := json.NewDecoder(content).Decode(&said); err != nil {
			t.Fatal(err)
		}
		of := one.Annotations["vnd.docker.reference.digest"]
		if said.PredicateType != "https://spdx.dev/Document" || len(said.Subject) != 1 || "sha256:"+said.Subject[0].Digest["sha256"] != of {
			t.Errorf("%s is said to be made of %+v", of, said)
		}
		lists[images[of]] = said.Predicate.Name
	}
	if want := map[string]string{"amd64": "amd", "arm64": "arm"}; !maps.Equal(lists, want) {
		t.Errorf("lists are %v, want %v", lists, want)
	}
}

func TestDockerFindsThePlatformsByName(t *testing.T) {
	path := written(t, echo())
	for tag, architecture := range map[string]string{"v1": "amd64", "v1-arm64": "arm64"} {
		reference, err := name.NewTag("registry.example.com/test/echo:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		found, err := tarball.ImageFromPath(path, &reference)
		if err != nil {
			t.Errorf("%s: %v", tag, err)
			continue
		}
		is(t, found, architecture)
	}
}

// is compares an image with echo.
func is(t *testing.T, found v1.Image, architecture string) {
	t.Helper()
	config, err := found.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	said := fmt.Sprint(config.OS, config.Architecture, config.Config.User, config.Config.Entrypoint, config.Config.Labels, config.Config.WorkingDir)
	if want := fmt.Sprint("linux", architecture, "1337:1337", []string{"/usr/local/bin/echo"}, map[string]string{"org.opencontainers.image.version": "v1"}, "/"); said != want {
		t.Errorf("%s: the image is %s, want %s", architecture, said, want)
	}
	if got, want := contents(t, mutate.Extract(found)), fmt.Sprintf(listing, architecture[:3]); got != want {
		t.Errorf("%s: the image has\n%s\nwant\n%s", architecture, got, want)
	}
}

func TestTheSameImageIsTheSameArchive(t *testing.T) {
	one, other := echo(), echo()
	for _, files := range other.Files {
		slices.Reverse(files)
	}
	if !bytes.Equal(read(t, written(t, one)), read(t, written(t, other))) {
		t.Error("the archive depends on the order of files")
	}
	other.Files["linux/amd64"][0].Mode = 0o600
	if bytes.Equal(read(t, written(t, one)), read(t, written(t, other))) {
		t.Error("the archive doesn't depend on the modes of files")
	}
}

func TestWhatCantBeAnImageIsRefused(t *testing.T) {
	for _, test := range []struct {
		change func(*Image)
		want   string
	}{
		{func(i *Image) { i.Name = "echo" }, "want a registry, a repository and a tag"},
		{func(i *Image) { i.Name = "registry.example.com/test/echo" }, "want a registry, a repository and a tag"},
		{func(i *Image) { i.Files = nil }, "no platform"},
		{func(i *Image) { i.Files["linux"] = nil }, "want an operating system and an architecture"},
		{func(i *Image) { i.Files["a/b/c/d"] = nil }, "too many slashes"},
		{func(i *Image) { i.Files["linux/amd64"][0].Path = "bin/echo" }, "want a clean one from the root"},
		{func(i *Image) { i.Files["linux/amd64"][0].Path = "/bin/../echo" }, "want a clean one from the root"},
		{func(i *Image) { i.Files["linux/amd64"][0].Path = "/" }, "want a clean one from the root"},
		{func(i *Image) { i.Files["linux/amd64"][0].Path = "/tmp" }, "twice"},
		{func(i *Image) { i.Files["linux/amd64"][0].Path = "/etc/echo.yaml/more" }, "which is no folder"},
		{func(i *Image) { i.Files["linux/amd64"][0].Mode = fs.ModeDevice }, "want a file, a folder or a symbolic link"},
		{func(i *Image) { i.Files["linux/amd64"][0].Mode = fs.ModeSetuid | 0o755 }, "want a file, a folder or a symbolic link"},
	} {
		i := echo()
		test.change(&i)
		path := filepath.Join(t.TempDir(), "echo.tar")
		if err := Write(path, i); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q", err, test.want)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something was written: %v", err)
		}
	}
}

func TestAFailureLeavesTheFormerArchive(t *testing.T) {
	path := written(t, echo())
	before := read(t, path)
	broken := echo()
	broken.Name = "echo"
	if err := Write(path, broken); err == nil {
		t.Fatal("it was written")
	}
	if !bytes.Equal(read(t, path), before) {
		t.Error("the former archive changed")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside it there is more: %v, %v", entries, err)
	}
}

func written(t *testing.T, i Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "echo.tar")
	if err := Write(path, i); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func manifests(t *testing.T, index v1.ImageIndex) []v1.Descriptor {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Manifests
}

// unpacked lays an archive out in a folder.
func unpacked(t *testing.T, path string) string {
	t.Helper()
	folder := t.TempDir()
	each(t, bytes.NewReader(read(t, path)), func(header *tar.Header, content []byte) {
		at := filepath.Join(folder, header.Name)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		if header.Typeflag == tar.TypeReg && err == nil {
			err = os.WriteFile(at, content, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return folder
}

// contents lists an archive as `ls -l` would.
func contents(t *testing.T, archive io.Reader) string {
	t.Helper()
	var out strings.Builder
	each(t, archive, func(header *tar.Header, content []byte) {
		fmt.Fprintf(&out, "%s %d:%d %s", header.FileInfo().Mode(), header.Uid, header.Gid, header.Name)
		switch header.Typeflag {
		case tar.TypeReg:
			fmt.Fprintf(&out, " %q", content)
		case tar.TypeSymlink:
			fmt.Fprintf(&out, " -> %s", header.Linkname)
		}
		out.WriteString("\n")
	})
	return out.String()
}

func each(t *testing.T, archive io.Reader, do func(*tar.Header, []byte)) {
	t.Helper()
	reader := tar.NewReader(archive)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		do(header, content)
	}
}
