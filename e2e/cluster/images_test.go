package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/deploy/image"
)

// These are the words of `kind load image-archive`.
func TestANodeTakesImagesOfAllPlatformsAsKindGivesThem(t *testing.T) {
	c := get(t)
	if c.Given() {
		t.Skip("the nodes of a cluster that was given aren't ours")
	}
	const name = "docker.io/tulle-mesh/both:v1"
	both := image.Image{Name: name, Entrypoint: []string{"/program"}, Files: map[string][]image.File{}, Lists: map[string][]byte{}}
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		both.Files[platform] = []image.File{{Path: "/program", Mode: 0o755, Content: []byte(platform)}}
		both.Lists[platform] = []byte(`{"spdxVersion":"SPDX-2.3","name":"` + platform + `"}`)
	}
	archive := filepath.Join(t.TempDir(), "both.tar")
	if err := image.Write(archive, both); err != nil {
		t.Fatal(err)
	}
	ctr := func(args ...string) string {
		t.Helper()
		cmd, err := c.OnNode(t.Context(), 1, append([]string{"ctr", "--namespace=k8s.io", "images"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd.Stdin = file
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		}
		return string(out)
	}
	ctr("import", "--all-platforms", "--digests", "--snapshotter=overlayfs", "-")
	defer ctr("rm", name)
	listed := ctr("ls", "name=="+name)
	for platform := range both.Files {
		if !strings.Contains(listed, platform) {
			t.Errorf("%s isn't there:\n%s", platform, listed)
		}
		ctr("export", "--platform="+platform, "/dev/null", name) // which fails if a part is missing
	}
}
