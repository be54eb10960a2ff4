package scenario

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/e2e/cluster"
)

//go:embed testdata/prometheus.yaml
var prometheus string

//go:embed testdata/asked.yaml
var asked string

//go:embed testdata/queries.txt
var queries []byte

func TestDashboardsAreAnsweredByARealPrometheus(t *testing.T) {
	ownNodes(t) // a registry that was given needn't have its image
	dir, err := cluster.Tool(t.Context(), "prometheus", say)
	if err != nil {
		t.Fatal(err)
	}
	image, err := cluster.ImageOf(t.Context(), filepath.Join(dir, "prometheus"))
	if err != nil {
		t.Fatal(err)
	}
	if err := mesh.Load(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	with(t, prometheus)
	with(t, asked)
	if err := settled(t.Context(), "observing"); err != nil {
		t.Fatal(err)
	}
	must(t, "-n", "asked", "wait", "--for=condition=Programmed", "gateway/waypoint", "--timeout=90s")
	if err := settled(t.Context(), "asked"); err != nil {
		t.Fatal(err)
	}
	start(t, "meshed", "client", "http://server.asked/", 10, 2)
	defer func() {
		if l7 := stop(t, "meshed", "client", "http://server.asked/"); l7.Failed > 0 || l7.Requests == 0 {
			t.Errorf("%d of %d requests by way of the waypoint failed: %+v", l7.Failed, l7.Requests, l7.Failures)
		}
	}()
	loseNothing(t, func(ctx context.Context) {
		for line := range bytes.Lines(queries) {
			query := strings.TrimSpace(string(line))
			if query == "" || strings.HasPrefix(query, "#") {
				continue
			}
			eventually(t, query, func(ctx context.Context) error {
				count, err := answers(ctx, query)
				if err == nil && count == 0 {
					err = errors.New("no data")
				}
				return err
			})
		}
	})
}

// answers is how many series Prometheus answers a query with.
func answers(ctx context.Context, query string) (int, error) {
	text, err := kubectl(ctx, "get", "--raw", "/api/v1/namespaces/observing/pods/prometheus:9090/proxy/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return 0, err
	}
	if answer.Status != "success" {
		return 0, fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return len(answer.Data.Result), nil
}
