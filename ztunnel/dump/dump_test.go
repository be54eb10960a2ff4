package dump_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/mesh/certs"
	"github.com/tulle-mesh/tulle/mesh/identity"
	"github.com/tulle-mesh/tulle/mesh/mtls"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/ztunnel/capture"
	"github.com/tulle-mesh/tulle/ztunnel/dump"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, file string, parts dump.Parts) {
	t.Helper()
	var page bytes.Buffer
	if err := dump.Write(&page, parts); err != nil {
		t.Fatal(err)
	}
	got := page.Bytes()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

// istioctl reads these names and spellings.
func TestPageHasTheShapeThatIstioctlReads(t *testing.T) {
	read, err := state.ReadFile("testdata/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	store := state.NewStore()
	if err := store.Apply(read); err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile("testdata/cert.pem")
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.New("cluster.local", "demo", "full")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/full.json", dump.Parts{
		Version: "1.2.3", Config: map[string]string{"Node": "node1"}, Table: store.Load(),
		Certificates: []certs.Status{
			{Identity: id, State: "Available", Credential: &mtls.Credential{ChainPEM: []string{string(cert)}, RootsPEM: string(cert) + string(cert)}},
			{Identity: id, State: "Initializing"},
		},
		Pods: []dump.Pod{{
			UID: "uid-1", Name: "full-1", Namespace: "demo", ServiceAccount: "full",
			Inbound: []capture.Info{
				{Src: "10.0.0.3:1000", Original: "web.demo", Actual: "10.0.0.2:8080", Protocol: "HBONE"},
				{Src: "10.0.0.4:1000", Actual: "10.0.0.2:8080", Protocol: "TCP"},
			},
			Outbound: []capture.Info{{Src: "10.0.0.2:1000", Original: "10.1.0.1:80", Actual: "192.0.2.9:15008", Protocol: "DOUBLEHBONE"}},
		}, {UID: "uid-2", Name: "full-2", Namespace: "demo", ServiceAccount: "full", Pending: true}},
	})
}

func TestEmptyPageHasListsInsteadOfNull(t *testing.T) {
	golden(t, "testdata/empty.json", dump.Parts{Table: state.NewStore().Load()})
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

func TestReaderThatIsGoneEndsThePage(t *testing.T) {
	gone := errors.New("broken pipe")
	if err := dump.Write(brokenWriter{gone}, dump.Parts{Table: state.NewStore().Load()}); !errors.Is(err, gone) {
		t.Errorf("Write: %v, want %v", err, gone)
	}
	unfit := dump.Parts{Table: state.NewStore().Load(), Config: func() {}}
	if err := dump.Write(&bytes.Buffer{}, unfit); err == nil {
		t.Error("a value that is no JSON was written")
	}
}
