package cluster_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

// The images of a given cluster, by the name under which its nodes know the registry.
const (
	folder = "some/where"
	tag    = "given"
)

// elsewhere are tests of the mesh that every image takes part in, by their packages.
var elsewhere = []struct {
	folder string
	tests  []string
}{
	{"../scenario", []string{
		"TestHelmInstallsTheMeshWithinAMinute", "TestMeshedPodsOnTwoNodesTalkThroughTunnelsByTheirIdentities", "TestAPolicyLetsInWhomItNames",
		"TestWorkloadsOfAllKinds", "TestBookinfoTalksThroughTunnelsAlone", "TestReplacingZtunnelLosesNoRequest",
	}},
	{"../l7", []string{
		"TestServices", "TestServerRouting", "TestAuthorizationL7", "TestSecureMetrics", "TestOutboundPolicyAllowAny",
	}},
}

// A cluster of ours stands for another one: the tests know no more of it than a kubeconfig, and its nodes have none of the images.
func TestTestsOfTheMeshRunOnAClusterThatIsGivenAndLeaveNothingThere(t *testing.T) {
	c := get(t)
	if c.Given() {
		t.Skip("its nodes don't know a registry of this test")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	say := func(line string) { t.Log(line) }
	if _, err := cluster.Tool(ctx, "helm", say); err != nil { // where the tests run there is no Internet
		t.Fatal(err)
	}
	archives, err := cluster.Images(ctx, cluster.Version, say)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := cluster.TestImages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	images := serve(t, c, append(archives, tests...)...)
	before := c.inventory(t)
	for _, p := range elsewhere {
		out, err := c.test(ctx, "-timeout=9m", "-run=^("+strings.Join(p.tests, "|")+")$", p.folder)
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		for _, name := range p.tests {
			if !strings.Contains(out, "--- PASS: "+name+" ") {
				t.Errorf("%s of %s hasn't passed", name, p.folder)
			}
		}
	}
	for name := range images.tagged {
		if !images.pulled[name] {
			t.Errorf("image %s came from elsewhere", name)
		}
	}
	eventually(t, "what the tests have made to be gone", func(context.Context) error {
		if after := c.inventory(t); after != before {
			return errors.New("before there was\n" + before + "and now\n" + after)
		}
		return nil
	})
}

// test runs `go test` where the cluster can be reached, as somebody does who was given it.
func (s *site) test(ctx context.Context, args ...string) (string, error) {
	cmd := s.Command(ctx, append([]string{"go", "test", "-count=1", "-v"}, args...)...)
	cmd.Env = append(cmd.Env, "HUB="+cluster.Registry+"/"+folder, "TAG="+tag)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// inventory lists what tests could leave in a cluster.
func (s *site) inventory(t *testing.T) string {
	t.Helper()
	const kinds = "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies"
	out, err := s.Kubectl(t.Context(), "", "get", kinds, "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// registry serves the images of archives, by the OCI Distribution Specification.
type registry struct {
	blobs  map[string]blob
	tagged map[string]string // digests of images by their names

	mu     sync.Mutex
	pulled map[string]bool // images that somebody has asked for by the tag
}

// blob is a part of an archive.
type blob struct {
	archive  *os.File
	at, size int64
}

// serve makes archives a registry of the cluster's.
func serve(t *testing.T, c *site, archives ...string) *registry {
	t.Helper()
	r := &registry{blobs: map[string]blob{}, tagged: map[string]string{}, pulled: map[string]bool{}}
	for _, path := range archives {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		if err := r.add(file); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/"+folder+"/{name}/manifests/{reference}", r.manifest)
	mux.HandleFunc("GET /v2/"+folder+"/{name}/blobs/{digest}", func(w http.ResponseWriter, request *http.Request) {
		r.blob(w, request, request.PathValue("digest"), "application/octet-stream")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	err := c.Do(func() error {
		listener, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: cluster.RegistryPort})
		if err == nil {
			go server.Serve(listener)
			t.Cleanup(func() { server.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// add takes in the image of an archive.
func (r *registry) add(file *os.File) error {
	archive := tar.NewReader(file)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if digest, ok := strings.CutPrefix(header.Name, "blobs/sha256/"); ok {
			at, err := file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			r.blobs["sha256:"+digest] = blob{file, at, header.Size}
		}
		if header.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct {
				Digest      string
				Annotations map[string]string
			}
		}
		if err := json.NewDecoder(archive).Decode(&index); err != nil {
			return err
		}
		for _, one := range index.Manifests {
			name, _, _ := strings.Cut(path.Base(one.Annotations["io.containerd.image.name"]), ":")
			r.tagged[name] = one.Digest
		}
	}
}

func (r *registry) manifest(w http.ResponseWriter, request *http.Request) {
	digest, name := request.PathValue("reference"), request.PathValue("name")
	if digest == tag {
		digest = r.tagged[name]
		r.mu.Lock()
		r.pulled[name] = true
		r.mu.Unlock()
	}
	found := r.blobs[digest]
	var manifest struct{ MediaType string }
	if found.archive == nil || json.NewDecoder(found.reader()).Decode(&manifest) != nil {
		http.NotFound(w, request)
		return
	}
	r.blob(w, request, digest, manifest.MediaType)
}

func (r *registry) blob(w http.ResponseWriter, request *http.Request, digest, mediaType string) {
	found := r.blobs[digest]
	if found.archive == nil {
		http.NotFound(w, request)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, request, "", time.Time{}, found.reader())
}

func (b blob) reader() *io.SectionReader { return io.NewSectionReader(b.archive, b.at, b.size) }
