package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ofOurs is a kustomization that takes the sample's overlay with the images of this cluster, as its README says.
const ofOurs = `
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images: [{name: docker.io/tulle-mesh/bookinfo-like, newName: %s, newTag: %s}]
`

func TestBookinfoTalksThroughTunnelsAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(work, "bookinfo")
	sample, err := filepath.Abs("../../deploy/samples/bookinfo-like/kustomize/ambient")
	if err != nil {
		t.Fatal(err)
	}
	if sample, err = filepath.Rel(dir, sample); err != nil {
		t.Fatal(err)
	}
	image := mesh.Image("bookinfo-like")
	colon := strings.LastIndex(image, ":")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, ofOurs, sample, image[:colon], image[colon+1:]), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, "delete", "-k", dir, "--ignore-not-found", "--timeout=60s") })
	must(t, "apply", "--server-side", "-k", dir)
	if err := settled(t.Context(), "bookinfo"); err != nil {
		t.Fatal(err)
	}
	const page = "http://productpage.bookinfo:9080"
	eventually(t, "the page", func(ctx context.Context) error {
		text, err := ask(ctx, "meshed", "client", page+"/productpage")
		if err == nil && (!strings.Contains(text, "Comedy of Errors") || !strings.Contains(text, "Reviewer1")) {
			err = fmt.Errorf("it is %s", text)
		}
		return err
	})
	missing := map[string]bool{"v1": true, "v2": true, "v3": true}
	eventually(t, "all versions of reviews", func(ctx context.Context) error {
		text, err := ask(ctx, "meshed", "client", page+"/api/v1/products/0/reviews")
		if err != nil {
			return err
		}
		var found struct {
			Version string
			Reviews []struct {
				Rating *struct {
					Stars int
					Error string
				}
			}
		}
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			return err
		}
		for _, review := range found.Reviews {
			if (found.Version == "v1") != (review.Rating == nil) || review.Rating != nil && (review.Rating.Error != "" || review.Rating.Stars == 0) {
				return fmt.Errorf("reviews %s", text)
			}
		}
		delete(missing, found.Version)
		if len(missing) > 0 {
			return fmt.Errorf("none of %v", missing)
		}
		return nil
	})
	if _, err := ask(t.Context(), "meshed", "client", "http://ratings.bookinfo:9080/"); err == nil {
		t.Error("somebody else than reviews may ask for ratings")
	}
	account := func(name string) string { return "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-" + name }
	hops := [][2]string{
		{"spiffe://cluster.local/ns/meshed/sa/client", account("productpage")},
		{account("productpage"), account("details")}, {account("productpage"), account("reviews")},
		{account("reviews"), account("ratings")}, {account("ratings"), account("mongodb")},
	}
	for _, hop := range hops {
		eventually(t, "tunnels to be counted", func(ctx context.Context) error {
			count, err := everywhere(ctx, `reporter="destination"`, `source_principal="`+hop[0]+`"`, `destination_principal="`+hop[1]+`"`, byTunnel)
			if err == nil && count == 0 {
				err = fmt.Errorf("none from %s to %s", hop[0], hop[1])
			}
			return err
		})
	}
	if plain, err := everywhere(t.Context(), `destination_workload_namespace="bookinfo"`, inPlain); err != nil || plain > 0 {
		t.Errorf("%d connections to the application weren't by tunnels (%v)", plain, err)
	}
}

// everywhere is opened of all nodes.
func everywhere(ctx context.Context, labels ...string) (total int, err error) {
	for _, node := range nodes {
		count, err := opened(ctx, node, labels...)
		if err != nil {
			return 0, err
		}
		total += count
	}
	return total, nil
}
